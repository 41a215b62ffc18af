// What the service has to be asked for what is on the screen: found out anew after every change, so that nothing is asked
// twice, and what nobody waits for any more is given up.

import { keepMap, keepObject, keepRegions, known } from "./answers.js";
import { merging, templates } from "./options.js";
import { ask } from "./service.js";
import { can, change, classes, modelOf, state } from "./state.js";

const TOP = 5; // names that each region and object gets
export const RANKED = 50; // regions that each word gets at most
const PLACES = 10_000; // of all words together
const running = new Map(); // slot → {question, photo, controller, wait}
const failed = new Map(); // slot → question

/** The model that is asked in a mode: the chosen one if it can, else the first that can, else null. */
export function modelFor(mode) {
  if (can(modelOf(state.model), mode)) return state.model;
  return state.models.find((model) => can(model, mode))?.name ?? null;
}

/** The question of an object: a string that is the same for the same answer. */
function questionOf({ points, box }) {
  return JSON.stringify([modelFor("objects"), classes(), templates(), points, box]);
}

export const answerOf = (object) => state.found[questionOf(object)];

const wantOf = (object) => ({
  slot: `object ${object.id}`,
  question: questionOf(object),
  path: "v1/prompt",
  model: modelFor("objects"),
  fields: { points: object.points.length && object.points, box: object.box, top: classes().length && TOP },
  keep: keepObject,
});

/** What is wanted: [{slot, question, path, model, fields, keep}]. */
function wants() {
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

const settled = ({ slot, question }) =>
  state.found[slot]?.question === question || question in state.found || failed.get(slot) === question;

/** Whether what is shown is the answer for other words or another model than those of now. */
export const stale = () => state.mode !== "objects"
  && wants().some(({ slot, question }) => state.found[slot] && state.found[slot].question !== question);

/** Ask for what is missing, and give up what is not wanted any more. */
export function refresh() {
  const wanted = state.photo ? wants().filter((want) => want.model) : [];
  const still = (slot, job) =>
    job.photo === state.photo && wanted.some((want) => want.slot === slot && want.question === job.question);
  for (const [slot, job] of running)
    if (!still(slot, job)) {
      job.controller.abort();
      running.delete(slot);
    }
  adopt(wanted);
  for (const want of wanted) if (!settled(want) && !running.has(want.slot)) start(want);
  tell();
}

/** What the pointer has shown before it was clicked is the answer to the click. */
function adopt(wanted) {
  const { question, answer, model } = state.preview ?? {};
  if (wanted.some((want) => want.question === question && !(question in state.found))) {
    keepObject({ question, model }, answer);
    change({ preview: null });
  }
}

/** The best mask of an object that is not there yet, as {question, model, answer, mask}. A busy service is not asked again. */
export async function peek(object, signal) {
  const want = wantOf(object);
  if (!want.model || want.question in state.found) return null;
  const { photo } = state;
  const path = `${want.path}?${new URLSearchParams({ model: want.model })}`;
  const answer = await send(path, want, photo, {}, { signal, patience: 0 });
  photo.sha = answer.image;
  const [mask] = known(answer.masks, answer);
  return mask ? { question: want.question, model: want.model, answer, mask } : null;
}

export function again() {
  failed.clear();
  change({ failure: null });
}

export function cancel() {
  for (const [slot, { question, controller }] of running) {
    failed.set(slot, question);
    controller.abort();
  }
  running.clear();
  change({ failure: { title: "Cancelled", detail: "" } });
  tell();
}

async function start(want) {
  const { slot, question, path, model } = want;
  const { photo } = state;
  const job = { question, photo, controller: new AbortController(), wait: null };
  running.set(slot, job);
  try {
    const answer = await send(`${path}?${new URLSearchParams({ model })}`, want, photo, job);
    if (running.get(slot) !== job || photo !== state.photo) return;
    if (answer.width !== photo.width || answer.height !== photo.height)
      throw Object.assign(new Error("Save it anew, upright."), { title: "The service sees this image turned another way" });
    want.keep(want, answer);
    if (state.failure) change({ failure: null });
  } catch (failure) {
    if (failure.name === "AbortError") return;
    if (!failure.title) console.error(failure); // a fault of this page
    failed.set(slot, question);
    change({ failure: { title: failure.title ?? "This page has failed", detail: failure.message } });
  } finally {
    if (running.get(slot) === job) running.delete(slot);
    tell();
  }
}

async function send(path, { fields }, photo, job, options) {
  const told = (wait) => {
    job.wait = wait;
    tell();
  };
  const how = options ?? { signal: job.controller.signal, place: true };
  const request = () => ask(path, { body: form(photo, fields), told, ...how });
  try {
    return await request();
  } catch (failure) {
    if (failure.status !== 404 || !photo.sha) throw failure;
    photo.sha = null; // the service does not hold the image any more
    return request();
  }
}

function form(photo, fields) {
  const made = new FormData();
  const prompt = fields.points || fields.box;
  made.append("image", prompt && photo.sha ? photo.sha : photo.blob);
  if (classes().length) made.append("classes", JSON.stringify(classes()));
  if (classes().length) for (const template of templates()) made.append("templates", template);
  for (const [name, value] of Object.entries(fields))
    if (value) made.append(name, typeof value === "string" ? value : JSON.stringify(value));
  return made;
}

function tell() {
  const jobs = [...running.values()];
  const wait = jobs.map((job) => job.wait).find((one) => one);
  const busy = jobs.length ? { wait } : null;
  if (JSON.stringify(busy) !== JSON.stringify(state.busy)) change({ busy });
}
