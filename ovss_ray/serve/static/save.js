// Results as files: indices as PNG, the colours over the image as PNG, masks as JSON in COCO's run lengths.

import { anchors, write } from "./captions.js";
import { cocoDocument } from "./coco.js";
import { layers, masksShown, nameOf, regionsShown, shadeOf } from "./legend.js";
import { colour, placeMasks, tint } from "./masks.js";
import { maskOf } from "./objects.js";
import { merging, templates } from "./options.js";
import { encode } from "./png.js";
import { change, classes, state } from "./state.js";
import { answerOf, modelFor } from "./wants.js";

const FEW = 255; // numbers that 8 bits can tell apart from "nothing"
export const stem = () => state.photo.name.replace(/\.[^.]*$/, "") || "image";

export function hand(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Do it, and say so if this browser cannot hold as much. */
export async function attempt(work) {
  try {
    await work();
  } catch (failure) {
    change({ failure: { title: "This browser could not make the file", detail: failure.message } });
  }
}

/** The id of a mask in files, from 1: of an object its number, of a region its place among all, the largest first. */
const idOf = ({ number }) => (state.mode === "objects" ? number : number + 1);

const paletteOf = (shade) => Array.from({ length: 256 }, (_, number) => shade(number));

/** Indices: of the words in a label map (as the service writes them), or the ids of masks, and 0 elsewhere. */
export const saveLabels = (slot) => attempt(async () => {
  const { photo } = state;
  if (state.mode !== "map") {
    const shift = idOf({ number: 0 }); // the colours are those on the screen
    const ids = placeMasks(masksShown(), photo, photo).map((number) => Math.max(0, number + shift));
    const few = masksShown().every((mask) => idOf(mask) <= FEW);
    const shades = new Map(masksShown().map((mask) => [idOf(mask), shadeOf(mask)]));
    const palette = few ? paletteOf((id) => (id ? colour(shades.get(id) ?? id) : [0, 0, 0])) : null;
    return hand(await encode(ids, photo, palette), `${stem()}_${state.mode}.png`);
  }
  const { labels, model, words } = state.found[slot];
  const few = JSON.parse(words)[0].length <= FEW;
  const palette = paletteOf((number) => (number < FEW ? colour(number) : [0, 0, 0]));
  hand(await encode(labels, photo, few ? palette : null), `${stem()}_${model}_labels.png`);
});

/** Pixels of the image per pixel of the screen. */
const unit = () => state.photo.width / document.getElementById("frame").clientWidth;

/** What is seen, in the size of the image. */
export const saveOverlay = () => attempt(async () => {
  const { photo } = state;
  const canvas = new OffscreenCanvas(photo.width, photo.height);
  const context = canvas.getContext("2d");
  context.drawImage(photo.bitmap, 0, 0, photo.width, photo.height);
  const over = layers();
  const middle = over.length > 1 ? Math.round((photo.width * state.split) / 100) : photo.width;
  for (const [number, layer] of over.entries()) {
    const which = layer.place(photo);
    const [from, to] = number ? [middle, photo.width] : [0, middle];
    if (!which || from >= to) continue;
    const image = new OffscreenCanvas(photo.width, photo.height);
    image.getContext("2d").putImageData(tint(which, photo, state.opacity / 100, null, 1, layer.shade), 0, 0);
    context.drawImage(image, from, 0, to - from, photo.height, from, 0, to - from, photo.height);
    if (state.names && layer.caption) write(context, anchors(which, photo), layer.caption, unit(), null);
  }
  hand(await canvas.convertToBlob({ type: "image/png" }), `${stem()}_overlay.png`);
});

/** The masks that are shown as a COCO document, with the name and score that each is shown with. */
export const saveCoco = () => attempt(async () => {
  const masks = masksShown().map((mask) => ({ ...mask, id: idOf(mask) })).sort((a, b) => a.id - b.id);
  const { regions } = state.found; // whose words may be older than those on the screen
  const answer = state.mode === "objects"
    ? { model: modelFor("objects"), total: masks.length, words: classes() }
    : { ...regions, total: regions.answer.found };
  const made = cocoDocument(state.photo, answer, masks);
  hand(new Blob([JSON.stringify(made)], { type: "application/json" }), `${stem()}_coco.json`);
});

const object = (one) => ({
  number: one.id,
  name: nameOf(one),
  points: one.points,
  box: one.box,
  model: answerOf(one).model,
  ...bare(maskOf(one)),
});

const bare = ({ box, area, predicted_iou, rle, names }) => ({ mask_box: box, area, predicted_iou, rle, names });

/** The answers, with masks in COCO's run lengths, and what was asked. */
export const saveMasks = () => attempt(async () => {
  const { photo, mode, found } = state;
  const asked = { image: photo.name, width: photo.width, height: photo.height, mode, classes: classes() };
  if (templates().length) asked.templates = templates();
  if (mode === "map" && merging().map) asked.map = merging().map;
  const told = {
    map: () => ({
      answers: ["first", ...(state.other ? ["second"] : [])]
        .filter((slot) => found[slot])
        .map((slot) => ({ model: found[slot].model, ...found[slot].answer })),
    }),
    regions: () => ({ model: found.regions.model, classes: found.regions.words, regions: regionsShown().map(bare) }),
    objects: () => ({ objects: state.objects.filter(maskOf).map(object) }),
  }[mode]();
  hand(new Blob([JSON.stringify({ ...asked, ...told }, null, 1)], { type: "application/json" }), `${stem()}_${mode}.json`);
});
