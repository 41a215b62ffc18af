// The image inside of a mask or class as a PNG, cut to its box and clear elsewhere.

import { chosen, masksShown, short } from "./legend.js";
import { placeLabels, placeMasks } from "./masks.js";
import { attempt, hand, stem } from "./save.js";
import { state } from "./state.js";

/** The label map that has the chosen class, or undefined. */
const mapped = () => ["first", ...(state.other ? ["second"] : [])].map((slot) => state.found[slot])
  .find((found) => found?.classes.some(({ index }) => index === state.pinned));

/** What a cut-out is of: {name, which}; which() gives numbers, row by row, at least 0 inside. Null: of nothing. */
export function cutOut() {
  const { photo, mode, pinned } = state;
  if (mode === "map") {
    const found = mapped();
    const name = found?.classes.find(({ index }) => index === pinned).name;
    const which = () => placeLabels(found.labels, photo, photo).map((label) => (label === pinned ? label : -1));
    return found ? { name, which } : null;
  }
  const shown = masksShown();
  const one = shown.find(({ number }) => number === chosen());
  const number = mode === "regions" ? "Region" : "Object";
  const name = one && (one.label?.name ?? `${number} ${mode === "regions" ? one.number + 1 : one.number}`);
  return { name, which: () => placeMasks(one ? [one] : shown, photo, photo) };
}

/** The box around what is inside: [left, top, right, bottom], half open. */
function boxOf(which, { width, height }) {
  const box = [width, height, 0, 0];
  for (let y = 0, place = 0; y < height; y += 1)
    for (let x = 0; x < width; x += 1, place += 1)
      if (which[place] >= 0) {
        if (x < box[0]) box[0] = x;
        if (y < box[1]) box[1] = y;
        if (x >= box[2]) box[2] = x + 1;
        box[3] = y + 1;
      }
  return box;
}

/** "road" → "photo_road_cutout.png"; letters and digits of all scripts stay. */
const fileName = (name) => [stem(), ...(name ? [short(name).replace(/[^\p{L}\p{N}]+/gu, "_")] : []), "cutout.png"].join("_");

export const saveCutOut = ({ name, which: place }) => attempt(async () => {
  const { photo } = state;
  const which = place();
  const [left, top, right, bottom] = boxOf(which, photo);
  const canvas = new OffscreenCanvas(Math.max(1, right - left), Math.max(1, bottom - top));
  const context = canvas.getContext("2d");
  context.drawImage(photo.bitmap, -left, -top);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let y = 0, at = 3; y < canvas.height; y += 1)
    for (let x = 0; x < canvas.width; x += 1, at += 4)
      if (!(which[(top + y) * photo.width + left + x] >= 0)) pixels.data[at] = 0;
  context.putImageData(pixels, 0, 0);
  hand(await canvas.convertToBlob({ type: "image/png" }), fileName(name));
});
