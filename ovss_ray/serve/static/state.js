// What the page knows, and who is told when it changes.

export const MODES = {
  map: { title: "Label map", answers: "segment", about: "every pixel gets one of the words" },
  regions: { title: "Everything", answers: "regions", about: "all regions that SAM finds, with names" },
  objects: { title: "Objects", answers: "prompt", about: "click points or drag boxes" },
};

export const state = {
  models: [], // of /v1/models
  limits: {},
  presets: [], // names of benchmarks
  examples: [], // {words}
  model: "",
  other: "", // the model to compare with, or ""
  mode: "map",
  opacity: 60, // percent
  split: 50, // percent of the width that the first model has when two are compared
  words: [], // "name" or "name|other name"
  tagged: {}, // word that a model found in the image → {source, score}
  templates: "", // sentences with {}, one per line
  merge: "", // "sedan, suv = car", one per line (see options.js)
  preset: null, // {name, title, classes: [[name, …], …]}
  awaited: null, // name of the preset that the address has, until its words are there
  photo: null, // {blob, bitmap, width, height, name, example}, and {blob, width, height} as `full` if that is larger
  full: false, // whether large images are sent in full size
  found: {}, // question → its answer (see wants.js)
  objects: [], // {id, points: [[x, y, label], …], box: [x0, y0, x1, y1] or null, mask: which of the masks, before: {points,
  // box, mask} whose answer is shown until the next one is there, or undefined}
  selected: null, // id of the object that points go to; null: the next point begins one
  tool: "inside", // what a plain click or a finger does: inside, outside or box
  busy: null, // {text, wait} while the service is asked
  failure: null, // {title, detail}
  gone: false, // whether the service could not be reached when it was last asked
  zoom: 1, // how much larger than the whole image the view is
  cursor: null, // {x, y}: the crosshair, in pixels of the image
  corner: null, // [x, y]: the first corner of a box that is being made by keys
  lit: null, // the number of what is under the pointer in the legend, or else
  pinned: null, // of what was clicked there
  hovered: null, // of the region under the pointer on the image
  preview: null, // {question, model, answer, mask}: what a click at the pointer would make
  history: [], // {id, title, picture} of the last results
  filter: "", // letters that a region's name has to have
  least: 0, // percent: the least score of a region that is shown
  rank: "", // the name by whose score regions are ranked, or "": all of them, the largest first
  best: 5, // how many regions of the ranking are shown
  names: true, // whether names are written on the masks
};

const listeners = [];
let due = false;

export function listen(listener) {
  listeners.push(listener);
}

/** Change what is known. Listeners are called once for all changes that are made together. */
export function change(patch) {
  Object.assign(state, patch);
  if (due) return;
  due = true;
  queueMicrotask(() => {
    due = false;
    for (const listener of listeners) listener();
  });
}

/** Tell what has gone wrong: a Refusal of the service, or a fault of this page. */
export function say({ title, message, status }) {
  change({ failure: { title: title ?? "This page has failed", detail: message }, gone: status === 0 });
}

export const modelOf = (name) => state.models.find((model) => model.name === name);

/** What a model can answer; services of before /v1/regions do not say it. */
export const can = (model, mode) => (model?.answers ?? ["segment"]).includes(MODES[mode].answers);

/** The first model that finds words in an image by itself: the chosen one if it can; else null. */
export const finder = () =>
  [modelOf(state.model), ...state.models].find((model) => model?.answers?.includes("words"))?.name ?? null;

/** The classes that are asked for, each a list of names: those of the preset, then the words. */
export const classes = () => [...(state.preset?.classes ?? []), ...state.words.map((word) => word.split("|"))];

// Undo and redo: of the objects, whose questions are kept and whose answers are remembered apart.

const past = [];
const future = [];

export const undoable = () => ({ undo: past.length > 0, redo: future.length > 0 });

/** Put other objects in the place of those there are, in a way that can be undone. */
export function revise(objects, selected) {
  past.push({ objects: state.objects, selected: state.selected });
  future.length = 0;
  change({ objects, selected, corner: null });
}

function swap(from, to) {
  if (!from.length) return false;
  to.push({ objects: state.objects, selected: state.selected });
  change({ ...from.pop(), corner: null });
  return true;
}

export const undo = () => swap(past, future);
export const redo = () => swap(future, past);

export function forget() {
  past.length = future.length = 0;
}
