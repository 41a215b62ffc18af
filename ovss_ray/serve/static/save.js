// Results as files: indices as PNG, the colours over the image as PNG, masks as JSON in COCO's run lengths.

import { answerOf } from "./asking.js";
import { layers, nameOf, objectsShown, regionsShown } from "./legend.js";
import { colour, placeMasks, tint } from "./masks.js";
import { maskOf } from "./objects.js";
import { encode } from "./png.js";
import { change, classes, state } from "./state.js";

const FEW = 255; // numbers that 8 bits can tell apart from "nothing"
const stem = () => state.photo.name.replace(/\.[^.]*$/, "") || "image";

function hand(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Do it, and say so if this browser cannot hold as much. */
async function attempt(work) {
  try {
    await work();
  } catch (failure) {
    change({ failure: { title: "This browser could not make the file", detail: failure.message } });
  }
}

/** Indices: of the words in a label map (as the service writes them), or the numbers of objects from 1, 0 elsewhere. */
export const saveLabels = (slot) => attempt(async () => {
  const { photo } = state;
  if (state.mode === "objects") {
    const numbers = placeMasks(objectsShown(), photo, photo).map((number) => Math.max(0, number));
    const palette = Array.from({ length: 256 }, (_, number) => (number ? colour(number) : [0, 0, 0]));
    return hand(await encode(numbers, photo, palette), `${stem()}_objects.png`);
  }
  const { labels, model, words } = state.found[slot];
  const few = JSON.parse(words).length <= FEW;
  const palette = Array.from({ length: 256 }, (_, number) => (number < FEW ? colour(number) : [0, 0, 0]));
  hand(await encode(labels, photo, few ? palette : null), `${stem()}_${model}_labels.png`);
});

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
    image.getContext("2d").putImageData(tint(which, photo, state.opacity / 100, null), 0, 0);
    context.drawImage(image, from, 0, to - from, photo.height, from, 0, to - from, photo.height);
  }
  hand(await canvas.convertToBlob({ type: "image/png" }), `${stem()}_overlay.png`);
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
  const told = {
    map: () => ({
      answers: ["first", ...(state.other ? ["second"] : [])]
        .filter((slot) => found[slot])
        .map((slot) => ({ model: found[slot].model, ...found[slot].answer })),
    }),
    regions: () => ({ model: found.regions.model, regions: regionsShown().map(bare) }),
    objects: () => ({ objects: state.objects.filter(maskOf).map(object) }),
  }[mode]();
  hand(new Blob([JSON.stringify({ ...asked, ...told }, null, 1)], { type: "application/json" }), `${stem()}_${mode}.json`);
});
