// The canvas on the screen: where a pixel of the image is, and how far the view is zoomed and moved.

import { state } from "./state.js";

const MOST_ZOOM = 16;
const byId = (id) => document.getElementById(id);
export const [stage, frame, canvas, tip] = ["stage", "frame", "canvas", "tip"].map(byId);
export const context = canvas.getContext("2d");
export const view = { zoom: 1, left: 0, top: 0 }; // left and top: pixels of the screen by which the canvas is moved

/** Pixels of the canvas per pixel of the screen. */
export const unit = () => canvas.width / (frame.clientWidth * view.zoom);

export const toCanvas = ([x, y]) => [(x * canvas.width) / state.photo.width, (y * canvas.height) / state.photo.height];

/** The place in the frame, in pixels of the screen, of a pixel of the image. */
export function toFrame([x, y]) {
  const { zoom, left, top } = view;
  return [(x * frame.clientWidth * zoom) / state.photo.width + left, (y * frame.clientHeight * zoom) / state.photo.height + top];
}

/** The column of the canvas below a part of the frame's width, 0 to 1. */
export function columnOf(part) {
  const at = (part * frame.clientWidth - view.left) * unit();
  return Math.round(Math.max(0, Math.min(canvas.width, at)));
}

/** The part of the canvas that is in the frame: [left, top, right, bottom], in its pixels. */
export function seen() {
  const [left, top] = [-view.left * unit(), -view.top * unit()];
  return [left, top, left + frame.clientWidth * unit(), top + frame.clientHeight * unit()];
}

/** The pixel of the image below the pointer. */
export function pixelOf(event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const within = (part, most) => Math.max(0, Math.min(most - 1, Math.floor(part * most)));
  return [within((event.clientX - left) / width, state.photo.width), within((event.clientY - top) / height, state.photo.height)];
}

/** Set the view, within the image. */
function show(zoom, left, top) {
  const within = (at, size) => Math.min(0, Math.max(size * (1 - zoom), at));
  Object.assign(view, { zoom, left: within(left, frame.clientWidth), top: within(top, frame.clientHeight) });
  canvas.style.transform = zoom === 1 ? "" : `translate(${view.left}px, ${view.top}px) scale(${zoom})`;
  frame.classList.toggle("zoomed", zoom !== 1);
}

/** Zoom by a factor, so that a place in the frame, in pixels of the screen, stays where it is. Return whether it changed. */
export function zoomBy(factor, x = frame.clientWidth / 2, y = frame.clientHeight / 2) {
  const zoom = Math.max(1, Math.min(MOST_ZOOM, view.zoom * factor));
  const scale = zoom / view.zoom;
  if (scale === 1) return false;
  show(zoom, x - scale * (x - view.left), y - scale * (y - view.top));
  return true;
}

export const moveTo = (left, top) => show(view.zoom, left, top);
export const whole = () => show(1, 0, 0);

/** Move the view so that a pixel of the image is in it. */
export function reveal(pixel) {
  const [x, y] = toFrame(pixel);
  const shift = (at, size) => Math.min(0, 0.9 * size - at) + Math.max(0, 0.1 * size - at);
  if (view.zoom > 1) moveTo(view.left + shift(x, frame.clientWidth), view.top + shift(y, frame.clientHeight));
}
