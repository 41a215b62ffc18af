// Masks and label maps: COCO's run lengths, colours, and what is where on the screen.

/** The ends of the runs of 0 and 1, in turn, column by column, of COCO's compressed run lengths (see serve/rle.py). */
function runs(counts) {
  const lengths = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = counts.charCodeAt(at++) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32);
    if (digit & 16 && shift < 32) value |= -1 << shift;
    const count = lengths.length;
    lengths.push(count > 2 ? value + lengths[count - 2] : value);
  }
  let sum = 0;
  return Uint32Array.from(lengths, (length) => (sum += length));
}

/** A mask that can be asked for its pixels, column by column. */
export class Mask {
  constructor({ size, counts }) {
    this.height = size[0];
    this.ends = runs(counts);
  }

  /** The number of the run that a place is in, counted column by column: in odd ones the mask is. */
  run(place) {
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] > place) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Call `inside` with the place in `rows`, which ascend, of each row of column x that is in the mask. */
  column(x, rows, inside) {
    const { ends, height } = this;
    let run = this.run(x * height + rows[0]);
    for (let k = 0; k < rows.length && run < ends.length; k += 1) {
      while (run < ends.length && ends[run] <= x * height + rows[k]) run += 1;
      if (run % 2 && run < ends.length) inside(k);
    }
  }
}

const NONE = 65534;
export const PALE = 0.35; // opacity of results for which newer ones are awaited

/** A label map, Uint16Array row by row, of the classes of an answer of /v1/segment with their masks; NONE elsewhere. */
export function labelMap({ width, height, classes }) {
  const labels = new Uint16Array(width * height).fill(NONE);
  for (const { index, rle } of classes) {
    let begin = 0;
    runs(rle.counts).forEach((end, number) => {
      if (number % 2)
        for (let place = begin; place < end; place += 1) labels[(place % height) * width + ((place / height) | 0)] = index;
      begin = end;
    });
  }
  return labels;
}

/** The colour of a class, [r, g, b]: hues a golden ratio of the circle apart, in three shades (as in serve/answer.py). */
export function colour(number) {
  const [saturation, value] = [[0.85, 0.95], [0.55, 0.85], [0.95, 0.65]][number % 3];
  const hue = (0.618034 * number) % 1;
  return [5, 3, 1].map((n) => {
    const k = (n + hue * 6) % 6;
    return Math.floor(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))) + 1e-6);
  });
}

export const hex = (number) => `#${colour(number).map((part) => part.toString(16).padStart(2, "0")).join("")}`;

/** What is where, Int32Array row by row at another size: the numbers of a label map, −1 where it has none. */
export function placeLabels(labels, size, { width, height }) {
  const which = new Int32Array(width * height);
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * size.width) / width));
  for (let y = 0; y < height; y += 1) {
    const from = Math.floor(((y + 0.5) * size.height) / height) * size.width;
    for (let x = 0; x < width; x += 1) {
      const label = labels[from + columns[x]];
      which[y * width + x] = label === NONE ? -1 : label;
    }
  }
  return which;
}

/** The same of masks {mask, box, number}, of which later ones lie on top. */
export function placeMasks(masks, size, { width, height }) {
  const which = new Int32Array(width * height).fill(-1);
  const [across, down] = [width / size.width, height / size.height];
  for (const { mask, box, number } of masks) {
    const [left, right] = [Math.floor(box[0] * across), Math.min(width, Math.ceil(box[2] * across))];
    const [top, bottom] = [Math.floor(box[1] * down), Math.min(height, Math.ceil(box[3] * down))];
    const rows = Int32Array.from({ length: bottom - top }, (_, k) => Math.floor((top + k + 0.5) / down));
    for (let x = left; x < right; x += 1)
      mask.column(Math.floor((x + 0.5) / across), rows, (k) => {
        which[(top + k) * width + x] = number;
      });
  }
  return which;
}

/**
 * Pixels of colours for what is where: `opacity` 0 to 1, edges in full, and what is not `lit`, if any is, paler. `hue`
 * gives the number of a colour for what is there, and `pale` says what is old.
 */
export function tint(which, { width, height }, opacity, lit, edges = 1, hue = (number) => number, pale = () => false) {
  const pixels = new Uint32Array(width * height); // bytes r, g, b, a
  const shades = new Map();
  const shade = (number, edge) => {
    const [r, g, b] = colour(hue(number));
    const alpha = (edge ? edges : opacity) * (lit === null || lit === number ? 1 : 0.25) * (pale(number) ? PALE : 1);
    return ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0;
  };
  for (let place = 0; place < which.length; place += 1) {
    const number = which[place];
    if (number < 0) continue;
    const right = (place + 1) % width ? which[place + 1] : number;
    const edge = right !== number || (which[place + width] ?? number) !== number;
    const key = 2 * number + edge;
    if (!shades.has(key)) shades.set(key, shade(number, edge));
    pixels[place] = shades.get(key);
  }
  return new ImageData(new Uint8ClampedArray(pixels.buffer), width, height);
}
