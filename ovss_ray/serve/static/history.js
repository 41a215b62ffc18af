// The last results, with their images, in this browser (IndexedDB): they survive a reload, and nothing else sees them.

import { revive } from "./answers.js";
import { canvas } from "./frame.js";
import { chosen, take } from "./images.js";
import { classes, change, listen, MODES, state } from "./state.js";

const MOST = 10; // results
const PAUSE = 500; // milliseconds after a change until it is kept
const [WIDE, HIGH] = [128, 96]; // pixels of a picture in the strip
let database; // a promise of an IDBDatabase, or of null where the browser keeps nothing
let timer;
let last = Promise.resolve(); // changes are kept one after another
let ready = false; // nothing is kept before the last result is back

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

function opened() {
  database ??= new Promise((resolve) => {
    const request = indexedDB.open("ovss_ray", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("photos", { keyPath: "key" });
      request.result.createObjectStore("results", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
  return database;
}

/** Run `work` with the stores of photos and results; without an effect where the browser keeps nothing. */
async function within(mode, work) {
  const base = await opened();
  if (!base) return [];
  const stores = base.transaction(["photos", "results"], mode);
  return work(stores.objectStore("photos"), stores.objectStore("results"));
}

const listed = async (results) => (await done(results.getAll())).sort((a, b) => b.when - a.when);

/** The answers to what is shown, without what is computed from them: [{slot, question, model, answer}]. */
function answers() {
  const kept = state.mode === "objects" ? Object.keys(state.found).filter((key) => key.startsWith("["))
    : { map: ["first", "second"], regions: ["regions"] }[state.mode];
  return kept.filter((slot) => state.found[slot]).map((slot) => {
    const { question = slot, model, answer } = state.found[slot];
    return { slot, question, model, answer };
  });
}

/** The picture of what is shown, small. */
function picture() {
  const small = new OffscreenCanvas(WIDE, HIGH);
  const scale = Math.max(WIDE / canvas.width, HIGH / canvas.height);
  const [width, height] = [canvas.width * scale, canvas.height * scale];
  const context = small.getContext("2d");
  context.drawImage(canvas, (WIDE - width) / 2, (HIGH - height) / 2, width, height);
  return context.getImageData(0, 0, WIDE, HIGH);
}

function entry() {
  const { photo, mode, words, preset, model, other, objects, selected } = state;
  const { key, name, width, height } = photo;
  const names = classes().map(([first]) => first);
  const title = [name, MODES[mode].title, names.slice(0, 3).join(", ") + (names.length > 3 ? ", …" : "")];
  const id = [key, mode, JSON.stringify([classes(), model, other])].join(" ");
  const settings = { mode, words, preset, model, other };
  return { id, when: Date.now(), title: title.filter(Boolean).join(": "), photo: { key, name, width, height }, settings,
    objects, selected, answers: answers(), picture: picture() };
}

async function keep() {
  const { photo } = state;
  if (!photo) return;
  const made = entry();
  await within("readwrite", async (photos, results) => {
    if (!(await done(photos.getKey(photo.key)))) photos.put({ key: photo.key, blob: photo.original, example: photo.example });
    await done(results.put(made));
    const all = await listed(results);
    const old = all.filter((one, place) => place >= MOST || (place && !one.answers.length)); // an image without an answer goes
    for (const { id } of old) results.delete(id);
    const used = all.filter((one) => !old.includes(one)).map((one) => one.photo.key);
    for (const key of await done(photos.getAllKeys())) if (!used.includes(key)) photos.delete(key);
    change({ history: all.filter((one) => !old.includes(one) && one.answers.length) });
  });
}

/** Show a result of the history: its image, words, objects and answers. */
export async function recall(id) {
  const [result, photo] = await within("readonly", async (photos, results) => {
    const found = await done(results.get(id));
    return [found, found && (await done(photos.get(found.photo.key)))];
  });
  if (!photo) return;
  change(result.settings);
  await show(result, photo);
}

async function show({ photo: { key, name, width, height }, objects, selected, answers: kept, settings }, { blob, example }) {
  if (!(await take(blob, name, example, key)) || state.photo.width !== width || state.photo.height !== height) return;
  if (settings.mode === state.mode) {
    if (state.mode === "objects") change({ objects, selected });
    revive(kept);
  }
}

/** Show the image of the last visit, with its objects, and its answers if the address is still about the same words. */
export async function begin() {
  const [result, photo] = await within("readonly", async (photos, results) => {
    const [newest, ...rest] = await listed(results);
    change({ history: [newest, ...rest].filter((one) => one?.answers.length) });
    return newest ? [newest, await done(photos.get(newest.photo.key))] : [];
  });
  if (photo && !chosen()) await show(result, photo);
  ready = true;
  notice(); // of an image that was chosen meanwhile
}

export async function clear() {
  await within("readwrite", (photos, results) => [photos.clear(), results.clear()]);
  change({ history: [] });
}

let known = [];
function notice() {
  const now = [state.photo, state.found, state.objects, state.selected];
  if (!ready || now.every((one, place) => one === known[place])) return;
  known = now;
  clearTimeout(timer);
  timer = setTimeout(() => (last = last.then(keep).catch(() => {})), PAUSE); // a full disk: the page works without
}
listen(notice);
