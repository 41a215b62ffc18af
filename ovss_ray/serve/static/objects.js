// Objects that somebody points at: what clicks, boxes and keys do to them. Coordinates are pixels of the image.

import { answerOf, shownAs } from "./wants.js";
import { change, revise, state } from "./state.js";

const next = () => 1 + Math.max(0, ...state.objects.map((object) => object.id));
const current = () => state.objects.find((object) => object.id === state.selected);

function replace(object, patch) {
  const { points, box, mask } = shownAs(object);
  const changed = { ...object, ...patch, before: { points, box, mask } };
  const others = state.objects.map((one) => (one === object ? changed : one));
  revise(others, object.id);
}

function begin(patch) {
  const object = { id: next(), points: [], box: null, mask: 0, ...patch };
  revise([...state.objects, object], object.id);
}

/** A point of the selected object, or the first of a new one: inside it or outside. */
export function addPoint(x, y, inside) {
  const point = [x, y, inside ? 1 : 0];
  const object = current();
  if (object) replace(object, { points: [...object.points, point], mask: 0 });
  else if (inside) begin({ points: [point] });
  else change({ failure: { title: "Nothing selected", detail: "A point outside needs an object: click inside it first." } });
}

/** A box, of which [x, y] are two corners: a new object, or one more hint for the object that is `selected`. */
export function addBox([x0, y0], [x1, y1], selected = false) {
  const box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  if (box[2] <= box[0] || box[3] <= box[1]) return;
  if (selected && current()) replace(current(), { box, mask: 0 });
  else begin({ box });
}

export function remove(object) {
  const left = state.objects.filter((one) => one !== object);
  revise(left, state.selected === object.id ? null : state.selected);
}

export function removeAll() {
  if (state.objects.length) revise([], null);
}

export function choose(object, mask) {
  replace(object, { mask });
}

export const select = (object) => change({ selected: object?.id ?? null });

/** The mask of an object that is shown, with its names, or undefined before the first answer. */
export const maskOf = (object) => {
  const masks = answerOf(object)?.masks;
  return masks?.[Math.min(shownAs(object).mask, masks.length - 1)];
};
