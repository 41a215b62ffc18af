// What is shown, as a list: for the legend, for the colours over the image, and for what is under the pointer.

import { answerOf, outdated } from "./wants.js";
import { placeLabels, placeMasks } from "./masks.js";
import { maskOf } from "./objects.js";
import { classes, state } from "./state.js";

const DOUBT = 0.05; // above the score of chance, from which a name says something
export const percent = (part, digits = 1) => `${(100 * part).toFixed(part && part < 0.0995 ? digits : 0)}\u00a0%`;

/** The ranking {index, name, regions} by which regions are shown, or undefined if it is by size. */
export const ranking = () => state.found.regions?.answer.ranking?.find(({ name }) => name === state.rank);

/**
 * Regions that are shown: the best for one word, or those with the letters of the filter in their name; all with the
 * score that is asked for. Each has a `label`: {index, name, score} of the word, or of its best name.
 */
export function regionsShown() {
  const all = state.found.regions?.regions ?? [];
  const word = ranking();
  const scored = ({ label }) => (label?.score ?? 1) * 100 >= state.least;
  if (word) {
    const { index, name } = word;
    const label = (score) => ({ index, name, score });
    return word.regions.slice(0, state.best)
      .map(({ region, score }, place) => ({ ...all[region], number: region, place: place + 1, label: label(score) }))
      .filter(scored);
  }
  const wanted = state.filter.trim().toLowerCase();
  return all
    .map((region, number) => ({ ...region, number, label: region.names[0] }))
    .filter(scored)
    .filter(({ label }) => !wanted || label?.name.toLowerCase().includes(wanted));
}

/** Whether a score hardly tells its name from the other ones: chance, and little more. */
export const vague = (score, count) => count > 1 && typeof score === "number" && score < 1 / count + DOUBT;

/** A name in one line of few letters. */
export const short = (name, most = 40) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

/** The number of the colour of a mask: that of its class, wherever it is shown, or its own if it has no name. */
export const shadeOf = ({ label, number }) => label?.index ?? number;

/** Masks that are shown, in the order in which they are drawn: later ones lie on top. */
export function masksShown() {
  if (state.mode === "objects") return objectsShown();
  return ranking() ? regionsShown().reverse() : regionsShown();
}

/** The number of what is chosen in the list or on the image, or null. */
export const chosen = () => (state.mode === "objects" ? state.selected : state.pinned);

/**
 * What lies over the image: one layer, or two of two models, from left to right.
 *
 * A layer has `sources`, which are other objects when it has to be computed anew; place(size) → Int32Array of numbers;
 * name(number) → what a number is called; and of masks, caption(number) → what is written on one, and pale(number) →
 * whether a newer answer is awaited.
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
      name: (number) => told(found.classes.find(({ index }) => index === number), JSON.parse(found.words)[0].length),
    }));
  }
  const last = ({ number }) => (number === state.lit ? 1 : 0); // what is lit lies on top
  const shown = masksShown().sort((a, b) => last(a) - last(b));
  const shades = new Map(shown.map((one) => [one.number, shadeOf(one)]));
  return [{
    sources: [state.mode, state.found.regions, ...shown.flatMap((one) => [one.number, one.mask, one.old])],
    place: (at) => placeMasks(shown, size, at),
    shade: (number) => shades.get(number),
    pale: (number) => shown.find((one) => one.number === number).old,
    name: (number) => told(shown.find((one) => one.number === number)),
    caption: (number) => caption(shown.find((one) => one.number === number)),
  }];
}

/** The objects that have a mask, the selected one on top. */
export function objectsShown() {
  const last = (object) => (object.id === state.selected ? 1 : 0);
  return [...state.objects]
    .sort((a, b) => last(a) - last(b))
    .map((object) => ({ ...maskOf(object), number: object.id, label: maskOf(object)?.names[0], old: outdated(object) }))
    .filter((one) => one.mask);
}

/** "striped red star" on a mask; "2: 83 %" on the second best one of a ranking. */
function caption({ label, place, number }) {
  if (place) return `${place}: ${percent(label.score)}`;
  if (vague(label?.score, counted())) return "no idea";
  return label ? short(label.name) : (state.mode === "objects" ? `Object ${number}` : `Region ${number + 1}`);
}

/** The number of classes that the masks on the screen were given names of. */
export const counted = () => (state.mode === "regions" ? state.found.regions?.words.length ?? 0 : classes().length);

export const nameOf = (object) => {
  const [best] = maskOf(object)?.names ?? [];
  return best?.name ?? (answerOf(object) ? `Object ${object.id}` : "…");
};

/** "striped red star · 4.1 % · score 83 %", of a class, a region or an object. */
function told(one, count = counted()) {
  if (!one) return "nothing";
  const best = one.names ? one.label : one;
  const score = best?.score ?? null;
  const name = vague(score, count) ? "no idea" : short(best?.name ?? `Object ${one.number}`);
  return [name, percent(one.part), ...(score === null ? [] : [`score ${percent(score)}`])].join(" · ");
}

/** What was found, in words: the largest or latest first. */
export function summary() {
  const largest = () => [...(state.found.first?.classes ?? [])].sort((a, b) => b.part - a.part);
  const found = { map: largest, regions: regionsShown, objects: () => objectsShown().reverse() }[state.mode]();
  return found.slice(0, 8).map((one) => told(one)).join("; ") || "nothing";
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
