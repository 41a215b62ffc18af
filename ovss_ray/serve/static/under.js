// What is at a pixel of the image: its number and names, and the choice of it.

import { canvas, columnOf, frame, tip, toFrame } from "./frame.js";
import { layers } from "./legend.js";
import { placeOf } from "./marks.js";
import { placed } from "./stage.js";
import { change, state } from "./state.js";

const said = document.getElementById("said");

/** The number at a pixel of the image, in the layer that is seen there; −1 for none. */
export function numberAt(x, y) {
  const place = placeOf(x, y);
  const right = placed.length > 1 && place % canvas.width >= columnOf(state.split / 100);
  return placed[right ? 1 : 0]?.which?.[place] ?? -1;
}

/** Choose the region or class at a pixel of the image, or none: a region's names are then listed. */
export function pin(x, y) {
  const number = numberAt(x, y);
  const pinned = number < 0 || number === state.pinned ? null : number;
  change({ pinned, lit: pinned });
  said.textContent = pinned === null ? "nothing chosen" : `${layers()[0].name(pinned)} chosen`;
  document.querySelector('#results .found[aria-pressed="true"]')?.scrollIntoView({ block: "nearest" });
}

/** Names at a pixel of the image: of one model, or of both that are compared. */
function namesAt(x, y) {
  const place = placeOf(x, y);
  const over = layers();
  const told = placed.map(({ which, name }, number) => {
    if (!which) return null;
    const model = over[number]?.model;
    const text = which[place] < 0 ? "nothing" : name(which[place]);
    return placed.length > 1 ? `${model}: ${text}` : text;
  });
  return told.filter(Boolean);
}

export function showTip(x, y) {
  const names = namesAt(x, y);
  tip.hidden = !names.length || (state.mode === "objects" && names[0] === "nothing");
  tip.textContent = names.join("\n");
  const [left, top] = toFrame([x, y]);
  const flip = left > frame.clientWidth / 2;
  tip.style.transform = `translate(${flip ? left - tip.offsetWidth - 12 : left + 14}px, ${Math.max(0, top - 34)}px)`;
  return names;
}
