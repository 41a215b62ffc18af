// The pointer and fingers on the image.

import { canvas, frame, moveTo, pixelOf, tip, view, zoomBy } from "./frame.js";
import { hover } from "./hover.js";
import { drag } from "./marks.js";
import { addBox, addPoint } from "./objects.js";
import { draw, zoomed } from "./stage.js";
import { change, state } from "./state.js";
import { numberAt, pin, showTip } from "./under.js";

/** Whether this drag moves the view: with the middle button, or with any where nothing else is dragged. */
const moving = (event) => view.zoom > 1 && (event.button === 1 || state.mode !== "objects"
  || (event.pointerType === "touch" && state.tool !== "box"));
const fingers = new Map(); // id → [x, y] on the screen

/** Two fingers zoom and move the view; return whether there are two. */
function pinch(event) {
  if (!fingers.has(event.pointerId)) return false;
  const before = [...fingers.values()];
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (fingers.size !== 2) return false;
  const [[a, b], [c, d]] = [before, [...fingers.values()]];
  const apart = (one, other) => Math.max(1, Math.hypot(one[0] - other[0], one[1] - other[1]));
  const { left, top } = frame.getBoundingClientRect();
  const middle = [(a[0] + b[0]) / 2 - left, (a[1] + b[1]) / 2 - top];
  zoomBy(apart(c, d) / apart(a, b), ...middle);
  moveTo(view.left + (c[0] + d[0] - a[0] - b[0]) / 2, view.top + (c[1] + d[1] - a[1] - b[1]) / 2);
  zoomed();
  return true;
}

function press(event) {
  hover(null);
  if (!state.photo || event.button > 2) return;
  if (event.pointerType === "touch") fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (fingers.size > 1) {
    drag.now = null; // no tap, and no box
    return;
  }
  if (state.cursor) change({ cursor: null, corner: null });
  const at = pixelOf(event);
  showTip(...at);
  const moved = moving(event) && { left: view.left, top: view.top };
  if (event.button === 1 && !moved) return;
  if (moved) event.preventDefault();
  drag.now = { from: at, to: at, start: [event.clientX, event.clientY], boxing: false, moved };
  if (event.pointerType === "mouse" || state.tool === "box") canvas.setPointerCapture(event.pointerId);
}

function move(event) {
  if (!state.photo || pinch(event) || fingers.size > 1) return;
  const at = pixelOf(event);
  if (!drag.now) return idle(event, at);
  const [right, down] = [event.clientX - drag.now.start[0], event.clientY - drag.now.start[1]];
  drag.now.far ||= Math.hypot(right, down) > 6;
  tip.hidden = true;
  if (drag.now.moved && drag.now.far) {
    moveTo(drag.now.moved.left + right, drag.now.moved.top + down);
    return draw();
  }
  drag.now.to = at;
  const boxes = state.mode === "objects" && (event.pointerType === "mouse" || state.tool === "box");
  drag.now.boxing ||= drag.now.far && event.buttons === 1 && boxes;
  draw();
}

/** The pointer moves without a button: name what is there, and show what a click would choose. */
function idle(event, at) {
  showTip(...at);
  if (event.pointerType !== "mouse") return;
  const number = state.mode === "regions" ? numberAt(...at) : -1;
  if ((number < 0 ? null : number) !== state.hovered) change({ hovered: number < 0 ? null : number });
  hover(state.mode === "objects" ? at : null);
}

function release(event) {
  fingers.delete(event.pointerId);
  if (!drag.now) return;
  const { from, to, boxing, far } = drag.now;
  drag.now = null;
  if (boxing) addBox(from, [to[0] + 1, to[1] + 1], event.shiftKey);
  else if (!far && state.mode !== "objects") event.button || pin(...from);
  else if (!far && event.button !== 1)
    addPoint(...from, event.button === 2 || event.shiftKey ? false : state.tool !== "outside");
  draw();
}

function leave(event) {
  fingers.delete(event.pointerId);
  drag.now = null;
  tip.hidden = true;
  hover(null);
  if (state.hovered !== null || state.preview) change({ hovered: null, preview: null });
}

function wheel(event) {
  if (!state.photo || event.ctrlKey || event.metaKey) return; // the browser zooms the whole page
  const { left, top } = frame.getBoundingClientRect();
  const lines = event.deltaMode ? 30 : 1;
  if (!zoomBy(Math.exp(-0.002 * lines * event.deltaY), event.clientX - left, event.clientY - top)) return;
  event.preventDefault();
  zoomed();
}

canvas.addEventListener("pointerdown", press);
canvas.addEventListener("pointermove", move);
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", leave);
canvas.addEventListener("pointerleave", (event) => (drag.now?.boxing || drag.now?.moved) || leave(event));
canvas.addEventListener("wheel", wheel, { passive: false });
canvas.addEventListener("contextmenu", (event) => state.mode === "objects" && event.preventDefault());
