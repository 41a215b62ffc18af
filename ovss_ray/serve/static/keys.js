// Keys on the image.

import { canvas, reveal, tip, view } from "./frame.js";
import { addBox, addPoint, select } from "./objects.js";
import { change, state } from "./state.js";
import { pin, showTip } from "./under.js";
import { zoomAt, ZOOMS } from "./zoom.js";

const said = document.getElementById("said");
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function step(event) {
  const { photo } = state;
  const far = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(photo.width, photo.height) / 40 / view.zoom));
  const at = state.cursor ?? { x: photo.width >> 1, y: photo.height >> 1 };
  const [right, down] = state.cursor ? STEPS[event.key] : [0, 0]; // the first key shows where it is
  const x = Math.max(0, Math.min(photo.width - 1, at.x + right * far));
  const y = Math.max(0, Math.min(photo.height - 1, at.y + down * far));
  change({ cursor: { x, y } });
  reveal([x, y]);
  said.textContent = [`${x}, ${y}`, ...showTip(x, y)].join(": ");
}

function corner({ x, y }, selected) {
  if (!state.corner) return change({ corner: [x, y] });
  addBox(state.corner, [x + 1, y + 1], selected);
}

function key(event) {
  if (!state.photo || event.ctrlKey || event.metaKey || event.altKey) return;
  const { cursor } = state;
  if (event.key in STEPS) step(event);
  else if (event.key in ZOOMS) zoomAt(ZOOMS[event.key]);
  else if (event.key === "Escape" && cursor) change(state.corner ? { corner: null } : { cursor: null });
  else if (state.mode !== "objects" && event.key === "Enter" && cursor) pin(cursor.x, cursor.y);
  else if (state.mode !== "objects") return;
  else if (event.key === "Enter" && cursor) addPoint(cursor.x, cursor.y, event.shiftKey ? false : state.tool !== "outside");
  else if (event.key.toLowerCase() === "b" && cursor) corner(cursor, event.shiftKey);
  else if (event.key.toLowerCase() === "n") select(null);
  else return;
  event.preventDefault();
}

canvas.addEventListener("keydown", key);
canvas.addEventListener("blur", () => (tip.hidden = true));
