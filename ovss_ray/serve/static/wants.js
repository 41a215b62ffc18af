// What the service has to be asked for what is on the screen: a question for each slot, the same for the same answer.

import { keepMap, keepObject, keepRegions } from "./answers.js";
import { merging, templates } from "./options.js";
import { can, classes, modelOf, state } from "./state.js";

const TOP = 5; // names that each region and object gets
export const RANKED = 50; // regions that each word gets at most
const PLACES = 10_000; // of all words together

/** The model that is asked in a mode: the chosen one if it can, else the first that can, else null. */
export function modelFor(mode) {
  if (can(modelOf(state.model), mode)) return state.model;
  return state.models.find((model) => can(model, mode))?.name ?? null;
}

/** The question of an object: a string that is the same for the same answer. */
function questionOf({ points, box }) {
  return JSON.stringify([modelFor("objects"), classes(), templates(), points, box]);
}

/** The answer for an object, else the latest one for other words or another model. */
function answerFor(object) {
  const { points, box } = object;
  const ending = `,${JSON.stringify([points, box]).slice(1)}`; // of each question about these points and this box
  const other = () => Object.keys(state.found).findLast((key) => key.startsWith("[") && key.endsWith(ending));
  return state.found[questionOf(object)] ?? state.found[other()];
}

/** An object as it was asked about when the answer came that is shown: before its last point, until that is answered. */
export const shownAs = (object) => (object.before && !answerFor(object) ? object.before : object);

export const answerOf = (object) => answerFor(shownAs(object));

/** Whether what is shown of an object is not the answer for its points and box, and the present words. */
export const outdated = (object) => !(questionOf(object) in state.found);

/** What is wanted for an object. */
export const wantOf = (object) => ({
  slot: `object ${object.id}`,
  question: questionOf(object),
  path: "v1/prompt",
  model: modelFor("objects"),
  fields: { points: object.points.length && object.points, box: object.box, top: classes().length && TOP },
  keep: keepObject,
});

/** What is wanted: [{slot, question, path, model, fields, keep}]. */
export function wants() {
  if (!state.models.length) return []; // the service has not said yet what it has
  const words = classes();
  if (state.mode === "objects")
    return state.objects
      .filter(({ points, box }) => points.length || box)
      .map(wantOf);
  if (!words.length) return [];
  const want = (slot, path, model, fields, keep) => {
    return { slot, question: JSON.stringify([model, words, templates(), fields.map]), path, model, fields, keep };
  };
  if (state.mode === "regions")
    return [want("regions", "v1/regions", modelFor("regions"), { top: TOP, ranked: ranked(words) }, keepRegions)];
  const { map } = merging();
  return ["first", "second"]
    .filter((slot) => slot === "first" || state.other)
    .map((slot) => {
      const model = slot === "first" ? modelFor("map") : state.other;
      return want(slot, "v1/segment", model, { output: "rle", map }, keepMap);
    });
}

/** Regions that each word gets: fewer if there are thousands of words. */
const ranked = (words) => Math.max(1, Math.min(RANKED, Math.floor(PLACES / words.length)));

/** Whether what is shown is the answer for other words or another model than those of now; see `outdated` for objects. */
export const stale = () => state.mode !== "objects"
  && wants().some(({ slot, question }) => state.found[slot] && state.found[slot].question !== question);
