// Images: chosen, dropped, pasted or drawn; converted and made smaller where the service would refuse them.

import { again } from "./asking.js";
import { file } from "./service.js";
import { fit } from "./stage.js";
import { change, forget, say, state } from "./state.js";

const COMFORT = 4_000_000; // pixels that are sent at most, unless the full size is wanted: masks hardly change beyond
const FORMATS = [["image/jpeg", /^\xff\xd8\xff/], ["image/png", /^\x89PNG\r\n\x1a\n/], ["image/webp", /^RIFF[^]{4}WEBP/]];
const LOSSLESS = ["image/gif", "image/bmp"]; // become a PNG; other formats a JPEG
const byId = (id) => document.getElementById(id);
let latest = null;
export const chosen = () => latest !== null; // whether an image is there, or is being read

/** The type of an image that the service takes, by its first bytes as the service sees it, or undefined. */
async function typeOf(blob) {
  const head = String.fromCharCode(...new Uint8Array(await blob.slice(0, 12).arrayBuffer()));
  return FORMATS.find(([, pattern]) => pattern.test(head))?.[0];
}

/**
 * The image as it is sent: smaller if it is so large that an answer would take long, or would be refused, and as a PNG or
 * JPEG if the service does not take its format.
 */
async function fitted(blob, bitmap) {
  const type = await typeOf(blob);
  const most = Math.min(COMFORT, ...state.models.flatMap(({ pixels_now: now }) => Object.values(now ?? {})));
  const { width, height } = bitmap;
  const scale = Math.min(Math.sqrt(most / (width * height)), (state.limits.side ?? Infinity) / Math.max(width, height), 1);
  const full = scale < 1 ? { blob, width, height } : null;
  if (type && (scale === 1 || state.full)) return { blob, bitmap, full };
  const part = state.full ? 1 : scale;
  const canvas = new OffscreenCanvas(Math.max(1, Math.floor(width * part)), Math.max(1, Math.floor(height * part)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const kept = type === "image/png" || LOSSLESS.includes(blob.type) ? "image/png" : "image/jpeg";
  const sent = await canvas.convertToBlob({ type: kept, quality: 0.95 });
  return { blob: sent, bitmap: await createImageBitmap(sent), full };
}

/** Show an image and have it asked about. `key` names it in the history; return whether it is still the latest one. */
export async function take(blob, name, example, key = crypto.getRandomValues(new Uint32Array(4)).join("")) {
  latest = blob;
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (blob !== latest) return false; // another one was chosen meanwhile
  if (!bitmap) {
    const message = `${name || "That file"} cannot be shown. JPEG, PNG, WebP, GIF, BMP and AVIF are taken.`;
    say({ title: "Not an image", message });
    return false;
  }
  const sent = await fitted(blob, bitmap);
  if (blob !== latest) return false;
  state.photo?.bitmap.close();
  const photo = { ...sent, original: blob, width: sent.bitmap.width, height: sent.bitmap.height, name, example, key, sha: null };
  forget();
  again();
  change({ photo, found: {}, objects: [], selected: null, cursor: null, corner: null, lit: null, pinned: null, hovered: null,
    preview: null });
  byId("canvas").setAttribute("aria-label", `${name}, ${photo.width} by ${photo.height} pixels`);
  byId("said").textContent = `${name} loaded`;
  fit();
  return true;
}

/** Take an image, and have its words typed next. */
async function choose(blob, name) {
  const empty = !state.words.length && !state.preset && state.mode !== "objects";
  if ((await take(blob, name)) && empty) byId("word").focus();
}

/** Send the image in its full size, or smaller again. */
export function resize(full) {
  change({ full });
  take(state.photo.original, state.photo.name, state.photo.example, state.photo.key);
}

export async function example(number) {
  const before = latest;
  try {
    const image = await file(`page/example/${number}`);
    if (latest !== before) return; // another image was chosen meanwhile
    change({ words: state.examples[number].words, preset: null });
    await take(image, image.type === "image/jpeg" ? "photograph.jpg" : `scene_${number}.png`, number);
  } catch (failure) {
    say(failure);
  }
}

function given(list) {
  const blob = [...(list ?? [])].find((one) => one.type.startsWith("image/")) ?? list?.[0];
  if (blob) choose(blob, blob.name || "pasted.png");
  return Boolean(blob);
}

const picker = byId("file");
picker.addEventListener("change", () => {
  given(picker.files);
  picker.value = "";
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  given(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => given(event.clipboardData.files) && event.preventDefault());
