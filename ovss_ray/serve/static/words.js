// The words that are asked for: chips, the field that makes them, and the lists of benchmarks.

import { find, origin, tag } from "./finding.js";
import { optionsView } from "./options.js";
import { ask, Refusal } from "./service.js";
import { change, classes, finder, say, state } from "./state.js";
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
  change({ awaited: name });
  try {
    const found = await ask(`page/words/${encodeURIComponent(name)}`);
    if (state.awaited === name) change({ preset: { name, ...found }, awaited: null }); // else another one was chosen
  } catch (failure) {
    if (!(failure instanceof Refusal)) throw failure;
    if (failure.status && state.awaited === name) change({ awaited: null }); // else it is asked for again (see reach.js)
    say(failure);
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

/** Put a word back into the field, where it can be changed. */
function rename(word) {
  const field = document.getElementById("word");
  remove(word);
  field.value = word;
  field.focus();
}

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
      @click=${() => change({ words: [], preset: null, awaited: null })}>Clear</button>
  </p>
  ${optionsView()}`;
