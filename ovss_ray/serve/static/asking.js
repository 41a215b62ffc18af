// The questions of wants.js are put to the service after every change, so that nothing is asked twice, and what nobody
// waits for any more is given up.

import { keepObject, known } from "./answers.js";
import { templates } from "./options.js";
import { ask } from "./service.js";
import { change, classes, say, state } from "./state.js";
import { wantOf, wants } from "./wants.js";

const running = new Map(); // slot → {question, photo, controller, wait}
const failed = new Map(); // slot → question

const settled = ({ slot, question }) =>
  state.found[slot]?.question === question || question in state.found || failed.get(slot) === question;

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
  change({ failure: null, gone: false });
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
    if (state.failure || state.gone) change({ failure: null, gone: false });
  } catch (failure) {
    if (failure.name === "AbortError") return;
    if (!failure.title) console.error(failure); // a fault of this page
    failed.set(slot, question);
    say(failure);
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
