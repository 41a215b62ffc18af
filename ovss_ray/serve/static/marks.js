// Points, boxes and the crosshair on the canvas. Their sizes are those of the screen.

import { canvas, context, toCanvas, unit } from "./frame.js";
import { state } from "./state.js";

export const drag = { now: null }; // now: {from: [x, y], to, boxing}, or null

export function line(colour, width, ...points) {
  context.beginPath();
  for (const point of points) context.lineTo(...point);
  context.strokeStyle = colour;
  context.lineWidth = width * unit();
  context.stroke();
}

function rectangle([x0, y0, x1, y1], strong) {
  const [[left, top], [right, bottom]] = [toCanvas([x0, y0]), toCanvas([x1, y1])];
  const corners = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top], [right, top]];
  line("#0009", strong ? 4 : 3, ...corners);
  line("#fff", strong ? 2 : 1, ...corners);
}

function dot([x, y, inside], strong) {
  const [left, top] = toCanvas([x + 0.5, y + 0.5]);
  context.beginPath();
  context.arc(left, top, (strong ? 7 : 5) * unit(), 0, 7);
  context.fillStyle = inside ? "#1a7f37" : "#c62828";
  context.fill();
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * unit();
  context.stroke();
  const arm = (strong ? 3.5 : 2.5) * unit();
  line("#fff", 2, [left - arm, top], [left + arm, top]);
  if (inside) line("#fff", 2, [left, top - arm], [left, top + arm]);
}

export function marks() {
  for (const object of state.objects) {
    const strong = object.id === state.selected;
    if (object.box) rectangle(object.box, strong);
    for (const point of object.points) dot(point, strong);
  }
  if (drag.now?.boxing) rectangle([...drag.now.from, ...drag.now.to], true);
  if (state.corner && state.cursor) rectangle([...state.corner, state.cursor.x, state.cursor.y], true);
}

export function crosshair() {
  const [x, y] = toCanvas([state.cursor.x + 0.5, state.cursor.y + 0.5]);
  const [arm, gap] = [14 * unit(), 4 * unit()];
  for (const [colour, width] of [["#000c", 4], ["#fff", 2]]) {
    for (const side of [-1, 1]) {
      line(colour, width, [x + side * gap, y], [x + side * arm, y]);
      line(colour, width, [x, y + side * gap], [x, y + side * arm]);
    }
  }
}

/** The place of a pixel of the image among those of the canvas. */
export function placeOf(x, y) {
  const [left, top] = toCanvas([x + 0.5, y + 0.5]).map(Math.floor);
  return top * canvas.width + left;
}
