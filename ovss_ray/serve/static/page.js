// The page: takes an image, keeps what is shown in step with what is known, and has the service asked.

import { again, refresh } from "./asking.js";
import { summary } from "./legend.js";
import { resultsView } from "./results.js";
import { ask, file } from "./service.js";
import { draw, fit } from "./stage.js";
import { change, forget, listen, ofAddress, redo, state, toAddress, undo } from "./state.js";
import { modelsView, modesView, noticeView, sidesView, toolsView, welcomeView, workingView } from "./views.js";
import { render } from "./vendor/lit-html.js";
import { usePreset, wordsView } from "./words.js";

const PAUSE = 350; // milliseconds after the last change of words until the service is asked
const byId = (id) => document.getElementById(id);
const picker = byId("file");

// Images.

const say = ({ title, message }) => change({ failure: { title: title ?? "This page has failed", detail: message } });

const COMFORT = 4_000_000; // pixels that are sent at most, unless the full size is wanted: masks hardly change beyond
let latest = null;

/** The image as it is sent: smaller if it is so large that an answer would take long, or would be refused. */
async function fitted(blob, bitmap) {
  const whole = { blob, bitmap };
  const most = Math.min(COMFORT, ...state.models.flatMap(({ pixels_now: now }) => Object.values(now ?? {})));
  const { width, height } = bitmap;
  const scale = Math.min(Math.sqrt(most / (width * height)), (state.limits.side ?? Infinity) / Math.max(width, height));
  if (scale >= 1) return whole;
  const full = { blob, width, height };
  if (state.full) return { ...whole, full };
  const canvas = new OffscreenCanvas(Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const type = blob.type === "image/png" ? "image/png" : "image/jpeg";
  const smaller = await canvas.convertToBlob({ type, quality: 0.95 });
  return { blob: smaller, bitmap: await createImageBitmap(smaller), full };
}

async function take(blob, name, example) {
  latest = blob;
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (blob !== latest) return; // another one was chosen meanwhile
  if (!bitmap) {
    const message = `${name || "That file"} cannot be shown. JPEG, PNG and WebP are taken.`;
    return say({ title: "Not an image", message });
  }
  const sent = await fitted(blob, bitmap);
  if (blob !== latest) return;
  state.photo?.bitmap.close();
  const photo = { ...sent, width: sent.bitmap.width, height: sent.bitmap.height, name, example, sha: null };
  forget();
  again();
  change({ photo, found: {}, objects: [], selected: null, cursor: null, corner: null, lit: null, pinned: null });
  byId("canvas").setAttribute("aria-label", `${name}, ${photo.width} by ${photo.height} pixels`);
  byId("said").textContent = `${name} loaded`;
  fit();
  if (example === undefined && !state.words.length && !state.preset && state.mode !== "objects") byId("word").focus();
}

const choose = () => picker.click();

/** Send the image in its full size, or smaller again. */
function resize(full) {
  change({ full });
  take(state.photo.full.blob, state.photo.name, state.photo.example);
}

async function example(number) {
  try {
    const image = await file(`page/example/${number}`);
    change({ words: state.examples[number].words, preset: null });
    await take(image, `scene_${number}.png`, number);
  } catch (failure) {
    say(failure);
  }
}

function given(list) {
  const blob = [...(list ?? [])].find((one) => one.type.startsWith("image/")) ?? list?.[0];
  if (blob) take(blob, blob.name || "pasted.png");
  return Boolean(blob);
}

function drop(event) {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  given(event.dataTransfer.files);
}

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
document.addEventListener("drop", drop);
document.addEventListener("paste", (event) => given(event.clipboardData.files) && event.preventDefault());
byId("open").addEventListener("click", choose);
byId("help").addEventListener("click", () => byId("helping").showModal());

// Undo and redo, wherever the focus is but in a field.

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.target.matches("input:not([type=range]), textarea")) return;
  const pressed = event.key.toLowerCase();
  const back = pressed === "z" && !event.shiftKey;
  if (!back && pressed !== "y" && pressed !== "z") return;
  event.preventDefault();
  const done = back ? undo() : redo();
  byId("said").textContent = `${done ? "" : "nothing to "}${back ? "undo" : "redo"}${done ? "ne" : ""}`;
});

// What is shown, and what is asked.

let timer;

function show() {
  byId("open").hidden = !state.photo;
  document.body.classList.toggle("objects", state.mode === "objects");
  render(modelsView(), byId("models"));
  render(modesView(), byId("modes"));
  render(toolsView(resize), byId("tools"));
  render(sidesView(), byId("sides"));
  render(welcomeView(choose, example), byId("welcome"));
  render(workingView(), byId("working"));
  render(noticeView(), byId("notice"));
  render(wordsView(), byId("words"));
  render(resultsView(), byId("results"));
  draw();
}

listen(() => {
  show();
  toAddress();
  clearTimeout(timer);
  timer = setTimeout(refresh, state.mode === "objects" ? 0 : PAUSE);
});

/** Say to who cannot see it that an answer is there. */
let answered = {};
listen(() => {
  const { found } = state;
  if (found !== answered && Object.keys(found).length) byId("said").textContent = `Found: ${summary()}`;
  answered = found;
});

async function begin() {
  show();
  try {
    const { models, limits } = await ask("v1/models");
    change({ models, limits });
    const { settings, preset } = ofAddress();
    change(settings);
    const { examples, presets } = await ask("page/offers");
    change({ examples, presets });
    if (preset) await usePreset(preset);
  } catch (failure) {
    say(failure);
  }
}

window.addEventListener("hashchange", () => {
  const { settings, preset } = ofAddress();
  change(settings);
  if (preset && preset !== state.preset?.name) usePreset(preset);
  else if (!preset) change({ preset: null });
});
begin();
