"use strict";
/* Sorting and filtering of tables, copying, the gallery and its viewer. All text enters the page as text, never as markup. */
const data = JSON.parse(document.getElementById("data").textContent);
const element = (name, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
};
const byId = (id) => document.getElementById(id);

/* Tables */
function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.classList.contains("number")) return "value" in cell.dataset ? Number(cell.dataset.value) : null;
  return cell.textContent.trim().toLowerCase();
}
function sort(table, column, descending) {
  const rows = [...table.tBodies[0].rows].map((row, place) => [valueOf(row, column), place, row]);
  rows.sort(([a, i], [b, k]) => {
    if (a === null || b === null) return (a === null) - (b === null) || i - k;
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return (descending ? -order : order) || i - k;
  });
  table.tBodies[0].append(...rows.map(([, , row]) => row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button")?.addEventListener("click", () => {
      const numbers = heading.classList.contains("number");
      const now = heading.getAttribute("aria-sort");
      const descending = now ? now === "ascending" : numbers;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, heading.cellIndex, descending);
    });
  }
}
for (const input of document.querySelectorAll("[data-filters]")) {
  const table = byId(input.dataset.filters), count = document.querySelector(`[data-counts="${input.dataset.filters}"]`);
  input.addEventListener("input", () => {
    const word = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(word);
      shown += !row.hidden;
    }
    count.textContent = word ? `${shown} of ${table.tBodies[0].rows.length} rows` : `${shown} rows`;
  });
}

/* Copying: a page from a file may be refused the clipboard, so the text is selected then. */
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const text = byId(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.firstChild.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.firstChild.textContent = "Selected";
    }
    setTimeout(() => (button.firstChild.textContent = "Copy"), 2000);
  });
}

/* Gallery */
const percent = (value) => (value === null ? "–" : value.toFixed(2));
const nameOf = (benchmark, label) => benchmark.labels[label] ?? "no class";
const colourOf = (benchmark, label) => benchmark.colours[label] ?? "#000000";
const iouOf = ([, truth, predicted, both]) => (truth ? (100 * both) / (truth + predicted - both) : null);
const spread = ({ miou: [first, ...others] }) => Math.max(0, ...others.map((of) => Math.abs((of ?? first ?? 0) - (first ?? of ?? 0))));
const ORDERS = {
  worst: ["lowest mIoU first", (a, b) => (a.miou[0] ?? -1) - (b.miou[0] ?? -1)],
  best: ["highest mIoU first", (a, b) => (b.miou[0] ?? -1) - (a.miou[0] ?? -1)],
  random: ["random", () => 0],
  difference: ["largest difference first", (a, b) => spread(b) - spread(a)],
};
const shownIn = new Map(); /* number of a gallery -> its images as they are listed now */

function listed(number) {
  const benchmark = data.benchmarks[number];
  const pick = document.querySelector(`[data-picks="${number}"]`).value;
  const label = document.querySelector(`[data-classes="${number}"]`).value;
  let images = benchmark.images.filter((image) => pick !== "random" || image.reasons.includes("random"));
  const confusion = pick.startsWith("confusion ") ? benchmark.confusions[Number(pick.slice(10))] : null;
  if (confusion) images = images.filter((image) => confusion.examples.includes(image.id));
  else images.sort(ORDERS[pick][1]);
  if (label !== "") {
    const entry = (image) => image.classes.at(-1).find(([of]) => of === Number(label));
    const score = (image) => (entry(image) && iouOf(entry(image))) ?? -1;
    images = images.filter((image) => image.classes.flat().some(([of]) => of === Number(label)));
    images.sort((a, b) => score(a) - score(b));
  }
  return images;
}
function card(number, image, place) {
  const button = element("button", { type: "button", className: "card" });
  const picture = image.photo || image.predictions.find(Boolean) || image.truth;
  button.append(picture ? element("img", { src: picture, alt: "", loading: "lazy" }) : element("span", { className: "blank" }, "no picture"));
  const scores = image.miou.map(percent).join(" → ");
  button.append(element("span", {}, element("span", {}, image.id), element("span", {}, scores)));
  button.addEventListener("click", () => open(number, place));
  return element("li", {}, button);
}
const STEP = 24; /* cards that appear at once; the viewer goes through all images */
function fill(number, most = STEP) {
  const images = listed(number);
  shownIn.set(number, images);
  const cards = images.slice(0, most).map((image, place) => card(number, image, place));
  document.querySelector(`[data-gallery="${number}"]`).replaceChildren(...cards);
  document.querySelector(`[data-more="${number}"]`).hidden = images.length <= most;
  const { images: all, scored } = data.benchmarks[number];
  const run = data.runs.length > 1 ? "" : `; ${scored.toLocaleString("en")} were scored`;
  document.querySelector(`[data-shown="${number}"]`).textContent = `${images.length} of the page's ${all.length} images${run}`;
}
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const number = Number(gallery.dataset.gallery), benchmark = data.benchmarks[number];
  const picks = document.querySelector(`[data-picks="${number}"]`), classes = document.querySelector(`[data-classes="${number}"]`);
  for (const [value, [words]] of Object.entries(ORDERS)) {
    if ((value === "difference") === data.runs.length > 1) picks.append(element("option", { value }, words));
  }
  benchmark.confusions.forEach((confusion, place) => {
    if (confusion.examples.some((id) => benchmark.images.some((image) => image.id === id))) {
      const words = `${nameOf(benchmark, confusion.truth)} predicted as ${nameOf(benchmark, confusion.prediction)}`;
      picks.append(element("option", { value: `confusion ${place}` }, words));
    }
  });
  const present = new Set(benchmark.images.flatMap((image) => image.classes.flat().map(([label]) => label)));
  classes.append(element("option", { value: "" }, "any"));
  for (const label of [...present].sort((a, b) => a - b)) {
    classes.append(element("option", { value: String(label) }, nameOf(benchmark, label)));
  }
  picks.addEventListener("change", () => fill(number));
  classes.addEventListener("change", () => fill(number));
  document.querySelector(`[data-more="${number}"]`).addEventListener("click", () => {
    const cards = gallery.children.length;
    fill(number, cards + STEP);
    gallery.children[cards].querySelector("button").focus();
  });
  fill(number);
}

/* Viewer */
const viewer = byId("viewer"), left = byId("left"), right = byId("right"), divider = byId("divider");
let view = { number: 0, place: 0 };

function layers(image) {
  const several = data.runs.length > 1;
  const name = (words, run) => (several ? `${words} of ${data.runs[run]}` : words);
  return [
    ["photograph", image.photo, false],
    ["ground truth", image.truth, true],
    ...image.predictions.map((picture, run) => [name("prediction", run), picture, true]),
    ...image.differences.map((picture, run) => [name("wrong pixels", run), picture, true]),
  ].filter(([, picture]) => picture);
}
function choose(select, options, preferred) {
  const before = select.value;
  select.replaceChildren(...options.map(([words]) => element("option", {}, words)));
  const names = options.map(([words]) => words);
  select.value = names.includes(before) ? before : names[Math.min(preferred, names.length - 1)] ?? "";
}
function paint() {
  const image = shownIn.get(view.number)[view.place];
  const all = layers(image);
  for (const [select, picture] of [[left, byId("under")], [right, byId("over")]]) {
    const layer = all.find(([words]) => words === select.value);
    picture.hidden = !layer;
    if (layer) {
      picture.src = layer[1];
      picture.alt = `${layer[0]} of ${image.id}`;
    }
  }
  divide();
}
function divide() {
  const over = byId("over"), share = Number(divider.value);
  over.style.clipPath = `inset(0 0 0 ${share}%)`;
  divider.setAttribute("aria-valuetext", `${share} % ${left.value}, the rest ${right.value}`);
  const frame = byId("stage").getBoundingClientRect(), picture = over.getBoundingClientRect();
  byId("line").style.left = `${picture.left - frame.left + (picture.width * share) / 100 - 1}px`;
}
function legend(benchmark, image) {
  const several = data.runs.length > 1;
  const total = image.classes[0].reduce((sum, [, truth]) => sum + truth, 0) || 1;
  const labels = [...new Set(image.classes.flat().map(([label]) => label))];
  const headings = ["class", "truth", ...data.runs.flatMap((run) => (several ? [`${run}: predicted`, "IoU"] : ["predicted", "IoU"]))];
  const head = element("tr", {}, ...headings.map((words, k) => element("th", { scope: "col", className: k ? "number" : "" }, words)));
  const rows = labels.map((label) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = colourOf(benchmark, label);
    const named = element("span", { className: "named" }, swatch, element("span", {}, nameOf(benchmark, label)));
    const cells = [element("th", { scope: "row" }, named)];
    image.classes.forEach((of, run) => {
      const entry = of.find(([other]) => other === label) ?? [label, 0, 0, 0];
      if (!run) cells.push(element("td", { className: "number" }, `${((100 * entry[1]) / total).toFixed(1)} %`));
      cells.push(element("td", { className: "number" }, `${((100 * entry[2]) / total).toFixed(1)} %`));
      cells.push(element("td", { className: "number" }, percent(iouOf(entry))));
    });
    return element("tr", {}, ...cells);
  });
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  const frame = element("div", { className: "scroll", tabIndex: 0 }, table);
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Classes of the image");
  byId("legend").replaceChildren(frame);
}
function turn(step) {
  const images = shownIn.get(view.number);
  show(view.number, (view.place + step + images.length) % images.length);
}
function show(number, place) {
  view = { number, place };
  const benchmark = data.benchmarks[number], image = shownIn.get(number)[place];
  byId("viewed").textContent = `${image.id}: mIoU ${image.miou.map(percent).join(" → ")}`;
  const all = layers(image);
  const prediction = all.findIndex(([words]) => words.startsWith("prediction"));
  const several = data.runs.length > 1;
  choose(left, all, several ? Math.max(prediction, 0) : 0);
  choose(right, all, prediction < 0 ? 1 : several ? prediction + 1 : prediction);
  byId("layers").hidden = byId("stage").hidden = !all.length;
  legend(benchmark, image);
  paint();
}
function open(number, place) {
  if (!viewer.open) viewer.showModal();
  show(number, place);
  divider.focus();
}
for (const select of [left, right]) select.addEventListener("change", paint);
divider.addEventListener("input", divide);
byId("over").addEventListener("load", divide);
addEventListener("resize", () => viewer.open && divide());
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
byId("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) || event.target.classList.contains("scroll")) return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
function follow(event) {
  const picture = byId("over").getBoundingClientRect();
  divider.value = String(Math.round((100 * (event.clientX - picture.left)) / picture.width));
  divide();
}
byId("stage").addEventListener("pointerdown", (event) => {
  byId("stage").setPointerCapture(event.pointerId);
  follow(event);
});
byId("stage").addEventListener("pointermove", (event) => event.buttons && follow(event));
for (const button of document.querySelectorAll("[data-opens]")) {
  button.addEventListener("click", () => {
    const number = Number(button.dataset.benchmark);
    document.querySelector(`[data-classes="${number}"]`).value = "";
    const worst = data.runs.length > 1 ? "difference" : "worst";
    document.querySelector(`[data-picks="${number}"]`).value = worst;
    fill(number);
    open(number, shownIn.get(number).findIndex((image) => image.id === button.dataset.image));
  });
}
