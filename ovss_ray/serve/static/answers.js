// What is kept of answers: with label maps and masks that can be asked for their pixels.

import { Mask, labelMap } from "./masks.js";
import { change, state } from "./state.js";

function keep(slot, made) {
  change({ found: { ...state.found, [slot]: made } });
}

export function keepMap({ slot, question, model }, answer) {
  const found = answer.classes.map((one) => ({ ...one, part: one.area }));
  const words = JSON.stringify(JSON.parse(question).slice(1)); // and how they are asked for
  keep(slot, { question, model, answer, words, classes: found, labels: labelMap(answer) });
}

/** Put answers that were kept for later in the place of those there are: [{slot, question, model, answer}]. */
export function revive(answers) {
  const keepers = { first: keepMap, second: keepMap, regions: keepRegions };
  for (const one of answers) (keepers[one.slot] ?? keepObject)(one, one.answer);
  state.photo.sha = null; // the service may not hold the image any more
}

/** Regions with masks that can be asked for pixels, and their part of the image. */
export function known(regions, { width, height }) {
  return regions.map((one) => ({ ...one, mask: new Mask(one.rle), part: one.area / (width * height) }));
}

export function keepRegions({ slot, question, model }, answer) {
  keep(slot, { question, model, answer, words: JSON.parse(question)[1], regions: known(answer.regions, answer) });
}

export function keepObject({ question, model }, answer) {
  state.photo.sha = answer.image;
  keep(question, { model, answer, masks: known(answer.masks, answer) });
}
