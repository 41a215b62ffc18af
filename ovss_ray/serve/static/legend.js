// What is shown, as a list: for the legend, for the colours over the image, and for what is under the pointer.

import { answerOf } from "./asking.js";
import { placeLabels, placeMasks } from "./masks.js";
import { maskOf } from "./objects.js";
import { state } from "./state.js";

export const percent = (part, digits = 1) => `${(100 * part).toFixed(part && part < 0.0995 ? digits : 0)} %`;

/** Regions that are shown: those with the letters of the filter in a name, and the score that is asked for. */
export function regionsShown() {
  const wanted = state.filter.trim().toLowerCase();
  return (state.found.regions?.regions ?? [])
    .map((region, number) => ({ ...region, number }))
    .filter(({ names: [best] }) => (best?.score ?? 1) * 100 >= state.least)
    .filter(({ names }) => !wanted || names[0]?.name.toLowerCase().includes(wanted));
}

/**
 * What lies over the image: one layer, or two of two models, from left to right.
 *
 * A layer has `sources`, which are other objects when it has to be computed anew; place(size) → Int32Array of numbers;
 * and name(number) → what a number is called.
 */
export function layers() {
  if (!state.photo) return [];
  const size = state.photo;
  if (state.mode === "map") {
    const slots = ["first", ...(state.other ? ["second"] : [])];
    return slots.map((slot) => state.found[slot]).map((found) => ({
      model: found?.model,
      sources: [found],
      place: (at) => found && placeLabels(found.labels, size, at),
      name: (number) => told(found.classes.find(({ index }) => index === number)),
    }));
  }
  const last = ({ number }) => (number === state.lit ? 1 : 0); // what is lit lies on top
  const shown = (state.mode === "regions" ? regionsShown() : objectsShown()).sort((a, b) => last(a) - last(b));
  return [{
    sources: [state.mode, state.found.regions, ...shown.flatMap((one) => [one.number, one.mask])],
    place: (at) => placeMasks(shown, size, at),
    name: (number) => told(shown.find((one) => one.number === number)),
  }];
}

/** The objects that have a mask, the selected one on top. */
export function objectsShown() {
  const last = (object) => (object.id === state.selected ? 1 : 0);
  return [...state.objects]
    .sort((a, b) => last(a) - last(b))
    .map((object) => ({ ...maskOf(object), number: object.id }))
    .filter((one) => one.mask);
}

export const nameOf = (object) => {
  const [best] = maskOf(object)?.names ?? [];
  return best?.name ?? (answerOf(object) ? `Object ${object.id}` : "…");
};

/** "striped red star · 4.1 % · score 83 %", of a class, a region or an object. */
function told(one) {
  if (!one) return "nothing";
  const [best] = one.names ?? [one];
  const score = best?.score ?? null;
  const name = best?.name ?? `Object ${one.number}`;
  return [name, percent(one.part), ...(score === null ? [] : [`score ${percent(score)}`])].join(" · ");
}

/** What was found, in words: the largest or latest first. */
export function summary() {
  const largest = () => [...(state.found.first?.classes ?? [])].sort((a, b) => b.part - a.part);
  const found = { map: largest, regions: regionsShown, objects: () => objectsShown().reverse() }[state.mode]();
  return found.slice(0, 8).map(told).join("; ") || "nothing";
}

/** The part of the pixels that two models call the same, 0 to 1; null unless two have answered one question. */
export function agreement() {
  const { first, second } = state.found;
  if (!state.other || !first || !second || first.words !== second.words) return null;
  if (compared.first !== first || compared.second !== second) {
    const equal = first.labels.reduce((sum, label, place) => sum + (label === second.labels[place]), 0);
    Object.assign(compared, { first, second, value: equal / first.labels.length });
  }
  return compared.value;
}

const compared = {};
