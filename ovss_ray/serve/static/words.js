// The words that are asked for: chips, the field that makes them, and the lists of benchmarks.

import { optionsView } from "./options.js";
import { ask, Refusal } from "./service.js";
import { change, classes, finder, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const said = document.getElementById("said");
const tidy = (word) => word.split("|").map((name) => name.trim()).filter(Boolean).join("|");
const shown = (word) => word.replaceAll("|", " | ");

/** Add words, parted by commas or ends of lines; "path | footpath" are two names of one. */
function add(text) {
  const fresh = text.split(/[,;\n]/).map(tidy).filter(Boolean);
  const words = [...new Set([...state.words, ...fresh])];
  const most = state.limits.classes ?? Infinity;
  const room = Math.max(0, most - (state.preset?.classes.length ?? 0));
  if (words.length > room)
    change({ failure: { title: "Too many words", detail: `This service takes ${most.toLocaleString("en")} at most.` } });
  else if (words.length > state.words.length) {
    // Who has regions ranked by a word and types another one looks for that one next.
    const rank = state.mode === "regions" && state.rank ? fresh.at(-1).split("|")[0] : state.rank;
    change({ words, rank });
    said.textContent = `${fresh.map(shown).join(", ")} added`;
  }
}

function remove(word) {
  change({ words: state.words.filter((one) => one !== word) });
  said.textContent = `${shown(word)} removed`;
  document.getElementById("word").focus();
}

function key(event) {
  const field = event.target;
  if (event.isComposing) return;
  if (event.key === "Enter" || event.key === ",") {
    event.preventDefault();
    add(field.value);
    field.value = "";
  } else if (event.key === "Backspace" && !field.value) {
    if (state.words.length) remove(state.words.at(-1));
    else if (state.preset) change({ preset: null });
  }
}

/** A list is taken apart before the field makes one line of it. */
function paste(event) {
  const text = event.clipboardData.getData("text");
  if (!/[,;\n]/.test(text)) return;
  event.preventDefault();
  add(text);
}

/** What is typed without Enter counts when the field is left. */
function leave(event) {
  add(event.target.value);
  event.target.value = "";
}

function input(event) {
  if (!/[,;\n]/.test(event.target.value)) return;
  add(event.target.value);
  event.target.value = "";
}

/** Put the words of a benchmark in front of those that were typed. */
export async function usePreset(name) {
  try {
    const found = await ask(`page/words/${encodeURIComponent(name)}`);
    change({ preset: { name, ...found } });
  } catch (failure) {
    if (!(failure instanceof Refusal)) throw failure;
    change({ failure: { title: failure.title, detail: failure.message } });
  }
}

function pick(event) {
  if (event.target.value) usePreset(event.target.value);
  event.target.value = "";
}

function unfold() {
  const words = state.preset.classes.map((names) => names.join("|"));
  change({ words: [...new Set([...words, ...state.words])], preset: null });
}

/** Source and score of a word that a model has found; null for any other word. */
const tag = (word) => (Object.hasOwn(state.tagged, word) ? state.tagged[word] : null);

/** Let the model find the words of the image. They become chips, which are then asked for as if they had been typed. */
async function find() {
  const { photo } = state;
  const form = new FormData();
  form.append("image", photo.blob);
  said.textContent = "Looking for words";
  try {
    const path = `v1/segment?${new URLSearchParams({ model: finder(), output: "rle" })}`;
    const { words } = await ask(path, { body: form });
    if (photo !== state.photo) return;
    const found = Object.fromEntries(words.map(({ name, synonyms, ...rest }) => [[name, ...synonyms].join("|"), rest]));
    const typed = state.words.filter((word) => !tag(word)); // words of an earlier photo go
    change({ words: [...new Set([...Object.keys(found), ...typed])], tagged: found, failure: null });
    said.textContent = `${words.length} words found`;
  } catch (failure) {
    if (!(failure instanceof Refusal)) throw failure;
    change({ failure: { title: failure.title, detail: failure.message } });
  }
}

/** Put a word back into the field, where it can be changed. */
function rename(word) {
  const field = document.getElementById("word");
  remove(word);
  field.value = word;
  field.focus();
}

const origin = ({ source, score }) => (score === null ? source : `${source}, score ${score.toFixed(2)}`);

const renaming = (word) => html`
    <button type="button" aria-label="Rename ${shown(word)}" title="Rename" @click=${() => rename(word)}>✎</button>`;

const chip = (word) => html`
  <li class="chip" title=${tag(word) ? origin(tag(word)) : nothing}><span>${shown(word)}</span>
    ${tag(word) ? renaming(word) : nothing}
    <button type="button" aria-label="Remove ${shown(word)}" @click=${() => remove(word)}>×</button></li>`;

const presetChip = ({ name, title, classes: names }) => html`
  <li class="chip many" title=${title}><span>${name}, ${names.length} names</span>
    <button type="button" aria-label="Edit the names of ${name}" title="Turn into single words" @click=${unfold}>✎</button>
    <button type="button" aria-label="Remove ${name}" @click=${() => change({ preset: null })}>×</button></li>`;

export const wordsView = () => html`
  <h2><label for="word">Words</label> <small>${classes().length || nothing}</small></h2>
  <ul class="chips">
    ${state.preset ? presetChip(state.preset) : nothing}
    ${state.words.map(chip)}
    <li class="entry"><input id="word" autocomplete="off" autocapitalize="none" enterkeyhint="done"
      placeholder=${classes().length ? "Add a word" : "What is in the image? Type words"}
      aria-describedby="word-hint" @keydown=${key} @input=${input} @paste=${paste} @change=${leave}></li>
  </ul>
  <p id="word-hint" class="hint">Enter or comma adds. <b>path | footpath</b>: two names of one thing.</p>
  <p class="row">
    ${finder() ? html`<button type="button" class="plain" ?disabled=${!state.photo} @click=${find}>Find words</button>` : nothing}
    <select aria-label="Add the words of a benchmark" @change=${pick}>
      <option value="">Benchmark …</option>
      ${state.presets.map((name) => html`<option value=${name}>${name}</option>`)}
    </select>
    <button type="button" class="plain" ?disabled=${!classes().length}
      @click=${() => change({ words: [], preset: null })}>Clear</button>
  </p>
  ${optionsView()}`;
