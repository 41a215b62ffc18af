// The image with what lies over it, on one canvas.

import { stale } from "./wants.js";
import { anchors, write } from "./captions.js";
import { canvas, columnOf, context, frame, seen, stage, unit, view, whole } from "./frame.js";
import { chosen, layers, shadeOf } from "./legend.js";
import { crosshair, line, marks } from "./marks.js";
import { PALE, placeMasks, tint } from "./masks.js";
import { change, state } from "./state.js";

const MOST = 2_500_000; // pixels of the canvas
const SHARPEN = 250; // milliseconds after the last zoom until the canvas is drawn finer
const split = document.getElementById("split");
export const placed = []; // for each layer: {sources, which, colours, image}
let hinted = {}; // {mask, width, image} of the mask that a click would make
let latest = null; // the image that the view is of

/** Make the canvas as large as there is room for. */
export function fit() {
  const { photo } = state;
  frame.hidden = !photo;
  if (!photo) return;
  if (photo !== latest) {
    whole();
    change({ zoom: 1 });
  }
  latest = photo;
  const room = { width: stage.clientWidth, height: parseFloat(getComputedStyle(stage).maxHeight) };
  const scale = Math.min(room.width / photo.width, room.height / photo.height);
  const shown = { width: Math.max(1, photo.width * scale), height: Math.max(1, photo.height * scale) };
  const sharp = view.zoom > 1 ? devicePixelRatio * view.zoom : Math.min(devicePixelRatio, 2);
  const dense = Math.min(sharp, Math.sqrt(MOST / (shown.width * shown.height)));
  frame.style.width = `${shown.width}px`;
  frame.style.height = `${shown.height}px`;
  canvas.width = Math.max(1, Math.round(shown.width * dense));
  canvas.height = Math.max(1, Math.round(shown.height * dense));
  draw();
}

/** Draw all of it, computing anew only the layers that have changed. */
export function draw() {
  const { photo } = state;
  if (!photo) return;
  const over = layers();
  context.imageSmoothingQuality = "high";
  context.drawImage(photo.bitmap, 0, 0, canvas.width, canvas.height);
  const middle = columnOf(state.split / 100);
  if (stale()) context.globalAlpha = PALE;
  over.forEach((layer, number) => {
    const image = coloured(layer, number);
    const [from, to] = over.length < 2 ? [0, canvas.width] : number ? [middle, canvas.width] : [0, middle];
    if (image && to > from)
      context.drawImage(image, from, 0, to - from, canvas.height, from, 0, to - from, canvas.height);
  });
  context.globalAlpha = 1;
  placed.length = over.length;
  if (state.names && over[0]?.caption && placed[0].which) captions(over[0]);
  if (over.length > 1) line("#fff", 2, [middle, 0], [middle, canvas.height]);
  if (state.preview) hint(state.preview.mask);
  if (state.mode === "objects") marks();
  if (state.cursor) crosshair();
  canvas.dataset.touch = state.zoom > 1 || (state.mode === "objects" && state.tool === "box") ? "ours" : "";
  split.hidden = over.length < 2;
}

/** Names on the masks, whose places are computed once for what is shown. */
function captions({ caption }) {
  placed[0].anchors ??= anchors(placed[0].which, canvas);
  write(context, placed[0].anchors, caption, unit(), state.lit ?? chosen(), seen());
}

/** Colour the mask that a click at the pointer would make. */
function hint(mask) {
  if (hinted.mask !== mask || hinted.width !== canvas.width) {
    const number = shadeOf({ number: 1 + state.objects.length, label: mask.names[0] });
    const image = new OffscreenCanvas(canvas.width, canvas.height);
    image.getContext("2d").putImageData(tint(placeMasks([{ ...mask, number }], state.photo, canvas), canvas, 0.4, null), 0, 0);
    hinted = { mask, width: canvas.width, image };
  }
  context.drawImage(hinted.image, 0, 0);
}

const differ = (before, now) => !before || before.length !== now.length || before.some((one, k) => one !== now[k]);

function coloured(layer, number) {
  const sources = [...layer.sources, canvas.width, canvas.height];
  const old = placed[number];
  const made = differ(old?.sources, sources) ? { sources, which: layer.place(canvas) } : old;
  placed[number] = { ...made, name: layer.name };
  if (!made.which) return null;
  const lit = state.lit ?? state.hovered;
  const colours = [state.opacity, lit, made.which];
  if (differ(made.colours, colours)) {
    const image = new OffscreenCanvas(canvas.width, canvas.height);
    const edges = state.opacity ? 1 : 0;
    const pixels = tint(made.which, canvas, state.opacity / 100, lit, edges, layer.shade, layer.pale);
    image.getContext("2d").putImageData(pixels, 0, 0);
    Object.assign(placed[number], { colours, image });
  }
  return placed[number].image;
}

let sharpening;

/** Draw what has been zoomed, at once and soon finer. */
export function zoomed() {
  change({ zoom: view.zoom }); // and so it is drawn
  clearTimeout(sharpening);
  sharpening = setTimeout(fit, SHARPEN);
}

split.addEventListener("input", () => change({ split: Number(split.value) }));
new ResizeObserver(fit).observe(stage);
