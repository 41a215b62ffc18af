// Names written on the masks of a canvas: each where its mask is widest, the larger masks first, none over another.

const SIZE = 13; // letters, in pixels of the screen
const LEAST = 0.0004; // part of the canvas from which a mask gets a name

/** For each number of `which` its pixels and the middle of a wide row near its centre: number → {area, x, y}. */
export function anchors(which, { width, height }) {
  const sums = new Map();
  for (let place = 0; place < which.length; place += 1) {
    const number = which[place];
    if (number < 0) continue;
    if (!sums.has(number)) sums.set(number, { area: 0, rows: 0, best: -Infinity, x: 0, y: 0 });
    const sum = sums.get(number);
    sum.area += 1;
    sum.rows += (place / width) | 0;
  }
  for (let y = 0; y < height; y += 1)
    for (let x = 0, end; x < width; x = end) {
      const number = which[y * width + x];
      for (end = x + 1; end < width && which[y * width + end] === number; ) end += 1;
      if (number < 0) continue;
      const sum = sums.get(number);
      const worth = end - x - 2 * Math.abs(y - sum.rows / sum.area);
      if (worth > sum.best) Object.assign(sum, { best: worth, x: (x + end) / 2, y });
    }
  return sums;
}

/**
 * Write text(number) at each anchor. `unit`: pixels of the canvas per pixel of the screen; `first`: is never left out;
 * `seen`: the part of the canvas that is on the screen, [left, top, right, bottom].
 */
export function write(context, places, text, unit, first, seen = [0, 0, context.canvas.width, context.canvas.height]) {
  const { width, height } = context.canvas;
  const [high, gap] = [(SIZE + 7) * unit, 6 * unit];
  const taken = [];
  const order = [...places].sort(([a, one], [b, other]) => (b === first) - (a === first) || other.area - one.area);
  context.save();
  context.font = `600 ${SIZE * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const [number, { area, x, y }] of order) {
    if (area < LEAST * width * height && number !== first) continue;
    if (x < seen[0] || y < seen[1] || x >= seen[2] || y >= seen[3]) continue;
    const title = text(number);
    const wide = context.measureText(title).width + 2 * gap;
    const left = Math.max(seen[0], Math.min(seen[2] - wide, x - wide / 2));
    const top = Math.max(seen[1], Math.min(seen[3] - high, y - high / 2));
    const apart = (other) =>
      left >= other.right || left + wide <= other.left || Math.abs(top - other.top) >= high;
    if (!taken.every(apart)) continue;
    taken.push({ left, right: left + wide, top });
    context.beginPath();
    context.roundRect(left, top, wide, high, 5 * unit);
    context.fillStyle = number === first ? "#14161af2" : "#14161abf";
    context.fill();
    context.fillStyle = "#fff";
    context.fillText(title, left + gap, top + high / 2);
  }
  context.restore();
}
