// A PNG whose pixels are numbers: the canvas can only write colours.

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit += 1) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function chunk(kind, data) {
  const made = new Uint8Array(data.length + 12);
  const view = new DataView(made.buffer);
  view.setUint32(0, data.length);
  made.set(new TextEncoder().encode(kind), 4);
  made.set(data, 8);
  let sum = 0xffffffff;
  for (const byte of made.subarray(4, -4)) sum = (sum >>> 8) ^ CRC[(sum ^ byte) & 255];
  view.setUint32(made.length - 4, ~sum);
  return made;
}

/**
 * Encode numbers, row by row: with 8 bits and a palette, a list of [r, g, b], or with 16 bits if `palette` is null.
 */
export async function encode(numbers, { width, height }, palette) {
  const bytes = palette ? 1 : 2;
  const rows = new Uint8Array(height * (1 + width * bytes)); // each begins with a 0: no filter
  const view = new DataView(rows.buffer);
  for (let y = 0, at = 0; y < height; y += 1) {
    at += 1;
    for (let x = 0; x < width; x += 1, at += bytes) {
      if (palette) rows[at] = numbers[y * width + x];
      else view.setUint16(at, numbers[y * width + x]);
    }
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8 * bytes, palette ? 3 : 0], 8);
  const parts = [
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", header),
    ...(palette ? [chunk("PLTE", Uint8Array.from(palette.flat()))] : []),
    chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob(parts, { type: "image/png" });
}
