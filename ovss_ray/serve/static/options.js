// The sentences into which words are put, and the words that count as one class: what is asked besides the words.

import { change, classes, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

/** The templates of the prompts, sentences with {}; none: those of the model. */
export const templates = () => lines(state.templates);

/**
 * The classes of the lines "sedan, suv = car" and "unicorn =": map has word → class, or null for none. Lines without "="
 * and words that are not asked for are in `ignored`.
 */
export function merging() {
  const names = new Set(classes().flat().map((name) => name.toLowerCase()));
  const asked = (word) => names.has(word.toLowerCase());
  const map = {};
  const ignored = [];
  for (const line of lines(state.merge)) {
    const at = line.lastIndexOf("=");
    const words = line.slice(0, Math.max(at, 0)).trim();
    const listed = asked(words) ? [words] : words.split(",").map((word) => word.split("|")[0].trim()).filter(Boolean);
    if (!listed.length) ignored.push(line);
    for (const word of listed)
      if (asked(word)) map[word] = line.slice(at + 1).trim() || null;
      else ignored.push(word);
  }
  return { map: Object.keys(map).length ? map : null, ignored };
}

const field = (key, title, example) => html`<label for=${key}>${title}</label>
  <textarea id=${key} rows="2" spellcheck="false" placeholder=${example} .value=${state[key]}
    @change=${({ target }) => change({ [key]: target.value })}></textarea>`;

export function optionsView() {
  const { ignored } = merging();
  const used = templates().length + lines(state.merge).length;
  return html`<details ?open=${used > 0}><summary>Templates and merged words</summary>
    ${field("templates", "Templates, one per line", "a photo of a {}.")}
    ${field("merge", "Words that count as one class, in a label map", "sedan, suv = car")}
    <p class="hint">Without templates, the model's are used. <b>unicorn&nbsp;=</b> gives these pixels no name.</p>
    ${ignored.length ? html`<p class="hint" role="status">Ignored: ${ignored.join(", ")}</p>` : nothing}
  </details>`;
}
