// A preview of the mask that a click at the pointer would make. At most one question is under way, when the pointer rests.

import { peek } from "./asking.js";
import { change, state } from "./state.js";

const REST = 120; // milliseconds without a move
let timer = null;
let controller = null;
let place = null; // the pixel that is asked about, or is shown

/** The object as it would be after a click at a pixel, or null if a click there makes none. */
function afterClick([x, y]) {
  if (state.tool === "box") return null;
  const object = state.objects.find(({ id }) => id === state.selected);
  const inside = state.tool === "inside";
  if (!object && !inside) return null;
  return { id: 0, points: [...(object?.points ?? []), [x, y, inside ? 1 : 0]], box: object?.box ?? null };
}

/** Ask soon for the mask of a click at a pixel; null: for none. */
export function hover(at) {
  if (at && place && at[0] === place[0] && at[1] === place[1]) return; // browsers report moves without a change
  place = at;
  clearTimeout(timer);
  controller?.abort();
  controller = null;
  if (!at) return;
  if (state.preview) change({ preview: null });
  const object = afterClick(at);
  if (object) timer = setTimeout(() => preview(object), REST);
}

async function preview(object) {
  if (state.busy) return; // what was clicked comes first
  const { photo } = state;
  const mine = (controller = new AbortController());
  const told = await peek(object, mine.signal).catch(() => null); // a click at the same place will say what is wrong
  if (told && controller === mine && photo === state.photo) change({ preview: told });
}
