// The words that a model finds in the image by itself.

import { ask, Refusal } from "./service.js";
import { change, finder, say, state } from "./state.js";

const said = document.getElementById("said");

/** Source and score of a word that a model has found; null for any other word. */
export const tag = (word) => (Object.hasOwn(state.tagged, word) ? state.tagged[word] : null);

/** Let the model find the words of the image. They become chips, which are then asked for as if they had been typed. */
export async function find() {
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
    say(failure);
  }
}

export const origin = ({ source, score }) => (score === null ? source : `${source}, score ${score.toFixed(2)}`);
