// The image with what lies over it, on one canvas; the pointer, fingers and keys on it.

import { anchors, write } from "./captions.js";
import { chosen, layers } from "./legend.js";
import { tint } from "./masks.js";
import { addBox, addPoint, select } from "./objects.js";
import { change, state } from "./state.js";

const MOST = 2_500_000; // pixels of the canvas
const byId = (id) => document.getElementById(id);
const [stage, frame, canvas, tip, split, said] = ["stage", "frame", "canvas", "tip", "split", "said"].map(byId);
const context = canvas.getContext("2d");
const placed = []; // for each layer: {sources, which, colours, image}
let drag = null; // {from: [x, y], to, boxing}

/** Make the canvas as large as there is room for. */
export function fit() {
  const { photo } = state;
  frame.hidden = !photo;
  if (!photo) return;
  const room = { width: stage.clientWidth, height: parseFloat(getComputedStyle(stage).maxHeight) };
  const scale = Math.min(room.width / photo.width, room.height / photo.height);
  const shown = { width: Math.max(1, photo.width * scale), height: Math.max(1, photo.height * scale) };
  const dense = Math.min(devicePixelRatio, 2, Math.sqrt(MOST / (shown.width * shown.height)));
  frame.style.width = `${shown.width}px`;
  frame.style.height = `${shown.height}px`;
  canvas.width = Math.max(1, Math.round(shown.width * dense));
  canvas.height = Math.max(1, Math.round(shown.height * dense));
  draw();
}

/** Draw all of it, computing anew only the layers that have changed. */
export function draw() {
  const { photo } = state;
  if (!photo) return;
  const over = layers();
  context.imageSmoothingQuality = "high";
  context.drawImage(photo.bitmap, 0, 0, canvas.width, canvas.height);
  const middle = Math.round((canvas.width * state.split) / 100);
  over.forEach((layer, number) => {
    const image = coloured(layer, number);
    const [from, to] = over.length < 2 ? [0, canvas.width] : number ? [middle, canvas.width] : [0, middle];
    if (image && to > from)
      context.drawImage(image, from, 0, to - from, canvas.height, from, 0, to - from, canvas.height);
  });
  placed.length = over.length;
  if (state.names && over[0]?.caption && placed[0].which) captions(over[0]);
  if (over.length > 1) line("#fff", 2, [middle, 0], [middle, canvas.height]);
  if (state.mode === "objects") marks();
  if (state.cursor) crosshair();
  canvas.dataset.touch = state.mode === "objects" && state.tool === "box" ? "box" : "";
  split.hidden = over.length < 2;
}

/** Names on the masks, whose places are computed once for what is shown. */
function captions({ caption }) {
  placed[0].anchors ??= anchors(placed[0].which, canvas);
  write(context, placed[0].anchors, caption, unit(), state.lit ?? chosen());
}

const differ = (before, now) => !before || before.length !== now.length || before.some((one, k) => one !== now[k]);

function coloured(layer, number) {
  const sources = [...layer.sources, canvas.width, canvas.height];
  const old = placed[number];
  const made = differ(old?.sources, sources) ? { sources, which: layer.place(canvas) } : old;
  placed[number] = { ...made, name: layer.name };
  if (!made.which) return null;
  const colours = [state.opacity, state.lit, made.which];
  if (differ(made.colours, colours)) {
    const image = new OffscreenCanvas(canvas.width, canvas.height);
    const edges = state.opacity ? 1 : 0;
    image.getContext("2d").putImageData(tint(made.which, canvas, state.opacity / 100, state.lit, edges), 0, 0);
    Object.assign(placed[number], { colours, image });
  }
  return placed[number].image;
}

// Marks. Their sizes are those of the screen.

const unit = () => canvas.width / frame.clientWidth;
const toCanvas = ([x, y]) => [(x * canvas.width) / state.photo.width, (y * canvas.height) / state.photo.height];

function line(colour, width, ...points) {
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

function marks() {
  for (const object of state.objects) {
    const strong = object.id === state.selected;
    if (object.box) rectangle(object.box, strong);
    for (const [x, y, inside] of object.points) {
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
  }
  if (drag?.boxing) rectangle([...drag.from, ...drag.to], true);
  if (state.corner && state.cursor) rectangle([...state.corner, state.cursor.x, state.cursor.y], true);
}

function crosshair() {
  const [x, y] = toCanvas([state.cursor.x + 0.5, state.cursor.y + 0.5]);
  const [arm, gap] = [14 * unit(), 4 * unit()];
  for (const [colour, width] of [["#000c", 4], ["#fff", 2]]) {
    for (const side of [-1, 1]) {
      line(colour, width, [x + side * gap, y], [x + side * arm, y]);
      line(colour, width, [x, y + side * gap], [x, y + side * arm]);
    }
  }
}

// What is where.

/** The place of a pixel of the image among those of the canvas. */
function placeOf(x, y) {
  const [left, top] = toCanvas([x + 0.5, y + 0.5]).map(Math.floor);
  return top * canvas.width + left;
}

/** Choose the region at a pixel of the image, or none: its names are then listed. */
function pin(x, y) {
  const number = placed[0]?.which?.[placeOf(x, y)] ?? -1;
  const pinned = number < 0 || number === state.pinned ? null : number;
  change({ pinned, lit: pinned });
  said.textContent = pinned === null ? "nothing chosen" : `${layers()[0].name(pinned)} chosen`;
}

/** Names at a pixel of the image: of one model, or of both that are compared. */
function namesAt(x, y) {
  const place = placeOf(x, y);
  const over = layers();
  const told = placed.map(({ which, name }, number) => {
    if (!which) return null;
    const model = over[number]?.model;
    const text = which[place] < 0 ? "nothing" : name(which[place]);
    return placed.length > 1 ? `${model}: ${text}` : text;
  });
  return told.filter(Boolean);
}

function pixelOf(event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const within = (part, most) => Math.max(0, Math.min(most - 1, Math.floor(part * most)));
  const { photo } = state;
  return [within((event.clientX - left) / width, photo.width), within((event.clientY - top) / height, photo.height)];
}

function showTip(x, y) {
  const names = namesAt(x, y);
  tip.hidden = !names.length || (state.mode === "objects" && names[0] === "nothing");
  tip.textContent = names.join("\n");
  const [left, top] = toCanvas([x, y]).map((part) => part / unit());
  const flip = left > frame.clientWidth / 2;
  tip.style.transform = `translate(${flip ? left - tip.offsetWidth - 12 : left + 14}px, ${Math.max(0, top - 34)}px)`;
  return names;
}

// Pointer and fingers.

function press(event) {
  if (!state.photo) return;
  if (state.cursor) change({ cursor: null, corner: null });
  const at = pixelOf(event);
  showTip(...at);
  if (state.mode === "map" || event.button > 2 || event.button === 1) return;
  drag = { from: at, to: at, start: [event.clientX, event.clientY], boxing: false };
  if (event.pointerType === "mouse" || state.tool === "box") canvas.setPointerCapture(event.pointerId);
}

function move(event) {
  if (!state.photo) return;
  const at = pixelOf(event);
  if (!drag) return void showTip(...at);
  const far = Math.hypot(event.clientX - drag.start[0], event.clientY - drag.start[1]) > 6;
  drag.to = at;
  const boxes = state.mode === "objects" && (event.pointerType === "mouse" || state.tool === "box");
  drag.boxing ||= far && event.buttons === 1 && boxes;
  drag.far ||= far;
  tip.hidden = true;
  draw();
}

function release(event) {
  if (!drag) return;
  const { from, to, boxing, far } = drag;
  drag = null;
  if (boxing) addBox(from, [to[0] + 1, to[1] + 1]);
  else if (!far && state.mode === "regions") event.button || pin(...from);
  else if (!far)
    addPoint(...from, event.button === 2 || event.shiftKey ? false : state.tool !== "outside");
  draw();
}

function leave() {
  drag = null;
  tip.hidden = true;
}

// Keys.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function step(event) {
  const { photo } = state;
  const far = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(photo.width, photo.height) / 40));
  const at = state.cursor ?? { x: photo.width >> 1, y: photo.height >> 1 };
  const [right, down] = state.cursor ? STEPS[event.key] : [0, 0]; // the first key shows where it is
  const x = Math.max(0, Math.min(photo.width - 1, at.x + right * far));
  const y = Math.max(0, Math.min(photo.height - 1, at.y + down * far));
  change({ cursor: { x, y } });
  said.textContent = [`${x}, ${y}`, ...showTip(x, y)].join(": ");
}

function corner({ x, y }) {
  if (!state.corner) return change({ corner: [x, y] });
  addBox(state.corner, [x + 1, y + 1]);
}

function key(event) {
  if (!state.photo || event.ctrlKey || event.metaKey || event.altKey) return;
  const { cursor } = state;
  if (event.key in STEPS) step(event);
  else if (event.key === "Escape" && cursor) change(state.corner ? { corner: null } : { cursor: null });
  else if (state.mode === "regions" && event.key === "Enter" && cursor) pin(cursor.x, cursor.y);
  else if (state.mode !== "objects") return;
  else if (event.key === "Enter" && cursor) addPoint(cursor.x, cursor.y, event.shiftKey ? false : state.tool !== "outside");
  else if (event.key.toLowerCase() === "b" && cursor) corner(cursor);
  else if (event.key.toLowerCase() === "n") select(null);
  else return;
  event.preventDefault();
}

canvas.addEventListener("pointerdown", press);
canvas.addEventListener("pointermove", move);
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", leave);
canvas.addEventListener("pointerleave", () => drag?.boxing || leave());
canvas.addEventListener("contextmenu", (event) => state.mode === "objects" && event.preventDefault());
canvas.addEventListener("keydown", key);
canvas.addEventListener("blur", () => (tip.hidden = true));
split.addEventListener("input", () => change({ split: Number(split.value) }));
new ResizeObserver(fit).observe(stage);
