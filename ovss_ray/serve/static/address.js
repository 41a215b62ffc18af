// The part of the state that the address holds: behind the #, which no request has in it. Never the image.

import { MODES, modelOf, state } from "./state.js";

export function toAddress() {
  const told = new URLSearchParams();
  if (state.model) told.set("model", state.model);
  if (state.other) told.set("compare", state.other);
  told.set("mode", state.mode);
  told.set("opacity", state.opacity);
  const preset = state.preset?.name ?? state.awaited;
  if (preset) told.set("preset", preset);
  for (const word of state.words) told.append("word", word);
  if (state.templates) told.set("templates", state.templates);
  if (state.merge) told.set("merge", state.merge);
  if (state.rank) told.set("rank", state.rank);
  if (!state.names) told.set("names", "0");
  if (location.hash !== `#${told}`) history.replaceState(null, "", `#${told}`);
}

/** The models that are named, as far as the service has them; before it has said which it has, as they are named. */
export function served({ model, other }) {
  if (!state.models.length) return { model, other };
  const known = (name) => (modelOf(name) ? name : "");
  const first = known(model) || state.models[0].name;
  return { model: first, other: other === first ? "" : known(other) };
}

/** The settings of an address, as far as they make sense; `awaited` is a preset whose words have to be looked up. */
export function ofAddress(hash = location.hash) {
  const told = new URLSearchParams(hash.slice(1));
  const opacity = Number(told.get("opacity") ?? state.opacity);
  return {
    ...served({ model: told.get("model") ?? "", other: told.get("compare") ?? "" }),
    mode: Object.hasOwn(MODES, told.get("mode")) ? told.get("mode") : "map",
    opacity: opacity >= 0 && opacity <= 100 ? opacity : 60,
    words: told.getAll("word").filter(Boolean),
    templates: told.get("templates") ?? "",
    merge: told.get("merge") ?? "",
    rank: told.get("rank") ?? "",
    names: told.get("names") !== "0",
    awaited: told.get("preset"),
  };
}
