// The list of what was found, and what can be taken away.

import { answerOf, RANKED } from "./asking.js";
import { agreement, nameOf, objectsShown, percent, ranking, regionsShown } from "./legend.js";
import { hex } from "./masks.js";
import { choose, maskOf, remove, removeAll, select } from "./objects.js";
import { saveCoco, saveCutOut, saveLabels, saveMasks, saveOverlay } from "./save.js";
import { classes, change, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const swatch = (number) => html`
  <svg class="swatch" viewBox="0 0 1 1" aria-hidden="true"><rect width="1" height="1" fill=${hex(number)}></rect></svg>`;
const bar = (number, part) => html`
  <svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
    <rect width=${100 * part} height="1" fill=${hex(number)}></rect></svg>`;
const scored = (score) => (score === undefined || score === null ? nothing : html`<small>score ${percent(score)}</small>`);

/** A row that lights up what it speaks of under the pointer, and goes on doing so when it is clicked. */
function row(number, content, press, pressed) {
  const pin = () => change({ pinned: state.pinned === number ? null : number });
  const on = () => change({ lit: number });
  const off = () => change({ lit: state.pinned });
  return html`<button type="button" class="found" aria-pressed=${pressed ?? state.pinned === number} @click=${press ?? pin}
    @pointerenter=${on} @pointerleave=${off} @focus=${on} @blur=${off}>${swatch(number)}${content}</button>`;
}

// Label map.

function mapRows() {
  const slots = ["first", ...(state.other ? ["second"] : [])].map((slot) => state.found[slot]);
  const rows = new Map();
  slots.forEach((found, side) => {
    for (const one of found?.classes ?? []) {
      if (!rows.has(one.index)) rows.set(one.index, { name: one.name, index: one.index, sides: [] });
      rows.get(one.index).sides[side] = one;
    }
  });
  const largest = ({ sides }) => Math.max(...sides.map((one) => one?.part ?? 0));
  return { slots, rows: [...rows.values()].sort((a, b) => largest(b) - largest(a)) };
}

const area = (index, one) => html`<span class="area">${one ? bar(index, one.part) : nothing}
  <span>${one ? percent(one.part) : "–"}</span></span>`;

function mapView() {
  const { slots, rows } = mapRows();
  if (!slots.some(Boolean)) return nothing;
  const same = agreement();
  const two = slots.length > 1;
  return html`
    ${two ? html`<p class="sides">${slots.map((found) => html`<b>${found?.model ?? "…"}</b>`)}</p>` : nothing}
    <ul class="list ${two ? "two" : ""}">
      ${rows.map(({ index, name, sides }) => html`<li>${row(index, html`
        <span class="name">${name} ${two ? nothing : scored(sides[0]?.score)}</span>
        ${slots.map((_, side) => area(index, sides[side]))}`)}</li>`)}
    </ul>
    ${slots[0]?.answer.unnamed ? html`<p class="hint">${percent(slots[0].answer.unnamed / slots[0].labels.length)} of the
      pixels have no name.</p>` : nothing}
    ${same === null ? nothing : html`<p class="hint">The two agree on <b>${percent(same)}</b> of the pixels.</p>`}`;
}

// Regions.

const FAINT = 0.005; // names with a lesser score are not worth a line

const others = (names) => {
  const some = names.slice(1).filter(({ score }) => score >= FAINT);
  return some.length ? html`<small>or ${some.map(({ name, score }) => `${name} ${percent(score)}`).join(", ")}</small>` : nothing;
};

/** The scores of a name by the two branches of a network that has them, of which its score is made. */
const branches = ({ head, clip }) => (head === null || head === undefined ? nothing
  : html`<small title="by the trained head alone, and by CLIP alone">head ${percent(head)}${
    clip === null ? nothing : `, CLIP ${percent(clip)}`}</small>`);

/** The best names of what is chosen, with a score each. */
const candidates = (number, names, title) => (names.length ? html`<ol class="names" aria-label="Best names of ${title}">
  ${names.map((one) => html`<li><span>${one.name} ${branches(one)}</span> ${bar(number, one.score)}
    <span>${percent(one.score)}</span></li>`)}
</ol>` : nothing);

const quality = (part, iou) => html`<span class="quality"><span>${percent(part)}</span>
  <small title="the model's estimate of the mask: predicted IoU, or stability">quality ${iou.toFixed(2)}</small></span>`;

/** Below the word that is looked for: what the region is more likely, if there is something. */
const likelier = (names, label) => (names.length && names[0].index !== label.index
  ? html`<small>(more likely ${names[0].name} ${percent(names[0].score)})</small>` : nothing);

function regionRow({ number, place, names, label, part, predicted_iou: iou }) {
  const title = label?.name ?? `Region ${number + 1}`;
  const open = state.pinned === number;
  return html`<li class="region">${row(number, html`
    <span class="name">${place ? `${place}. ` : nothing}${title} ${scored(label?.score)}
      ${open ? nothing : place ? likelier(names, label) : others(names)}</span>
    ${quality(part, iou)}`)} ${open ? candidates(number, names, title) : nothing}</li>`;
}

const wordMenu = (rankings) => html`<label class="grow">Look for <select id="rank"
    @change=${({ target }) => change({ rank: target.value, pinned: null, lit: null })}>
  <option value="" .selected=${!ranking()}>all words, largest first</option>
  ${rankings.map(({ name }) => html`<option value=${name} .selected=${name === state.rank}>${name}</option>`)}
</select></label>`;

const slider = (title, key, least, most) => html`<label class="grow">${title} <input type="range" min=${least} max=${most}
  .value=${String(state[key])} @input=${({ target }) => change({ [key]: Number(target.value) })}></label>`;

function regionsView() {
  const { regions: all, answer } = state.found.regions ?? {};
  if (!all) return nothing;
  const shown = regionsShown();
  const word = ranking();
  return html`
    <p class="row">${wordMenu(answer.ranking ?? [])}</p>
    <p class="row">
      ${word ? slider(`Best ${state.best}`, "best", 1, RANKED) : html`<label class="grow">Name has <input type="search"
        .value=${state.filter} @input=${(e) => change({ filter: e.target.value })}></label>`}
      ${slider(`Score from ${state.least} %`, "least", 0, 100)}
    </p>
    ${word && classes().length === 1 ? html`<p class="hint">With one word every score is 100 %, and only the order tells
      regions apart. Add words for what else is in the image.</p>` : nothing}
    <p class="hint">${shown.length} of ${all.length} regions${word ? html`, by their score for <b>${word.name}</b>` : nothing}</p>
    <ul class="list">${shown.map(regionRow)}</ul>`;
}

// Objects.

const masksOf = (object, masks) => html`<span class="masks" role="group" aria-label="Masks of ${nameOf(object)}">
  <small>Mask</small>
  ${masks.map(({ predicted_iou: iou }, number) => html`<button type="button" aria-pressed=${number === object.mask}
    aria-label="Mask ${number + 1}, predicted IoU ${iou.toFixed(2)}" title="predicted IoU ${iou.toFixed(2)}"
    @click=${() => choose(object, number)}>${number + 1}</button>`)}</span>`;

function objectRow(object) {
  const mask = maskOf(object);
  const masks = answerOf(object)?.masks ?? [];
  const open = object.id === state.selected;
  return html`<li class="object">
    ${row(object.id, html`<span class="name">${nameOf(object)} ${scored(mask?.names[0]?.score)}
        ${open ? nothing : others(mask?.names ?? [])}</span> ${mask ? quality(mask.part, mask.predicted_iou) : nothing}`,
    () => select(object), open)}
    <button type="button" class="plain" aria-label="Remove ${nameOf(object)}" title="Remove"
      @click=${() => remove(object)}>×</button>
    ${open ? candidates(object.id, mask?.names ?? [], nameOf(object)) : nothing}
    ${masks.length > 1 ? masksOf(object, masks) : nothing}
  </li>`;
}

const objectsView = () => html`
  ${state.objects.length ? nothing : html`<p class="hint">Click inside an object, or drag a box around it.</p>`}
  <ul class="list">${state.objects.map(objectRow)}</ul>
  ${state.objects.length < 2 ? nothing : html`<p class="row end">
    <button type="button" class="plain" @click=${removeAll}>Remove all</button></p>`}`;

// Downloads.

function savesView() {
  const ready = { map: state.found.first, regions: regionsShown().length, objects: objectsShown().length }[state.mode];
  if (!ready) return nothing;
  const labels = state.mode === "map" && state.other
    ? ["first", "second"].filter((slot) => state.found[slot]).map((slot) => [slot, `Labels of ${state.found[slot].model}, PNG`])
    : [["first", "Labels, PNG"]];
  const masked = state.mode !== "map";
  return html`
    <h2>Download</h2>
    <p class="row">
      ${labels.map(([slot, title]) => html`<button type="button" title="PNG whose pixels are numbers"
        @click=${() => saveLabels(slot)}>${title}</button>`)}
      <button type="button" title="PNG of the image and its colours" @click=${saveOverlay}>Overlay, PNG</button>
      ${masked ? html`<button type="button" title="PNG of the image inside the chosen mask, or inside all; clear elsewhere"
          @click=${saveCutOut}>Cut-out, PNG</button>
        <button type="button" title="COCO's document: images, annotations, categories"
          @click=${saveCoco}>COCO, JSON</button>` : nothing}
      <button type="button" title="JSON of the answers, with COCO's run lengths" @click=${saveMasks}>Masks, JSON</button>
    </p>`;
}

const seconds = () => {
  const answer = { map: state.found.first, regions: state.found.regions }[state.mode]?.answer;
  const spent = Object.values(answer?.seconds ?? {}).reduce((sum, one) => sum + one, 0);
  return spent ? html`<small>${spent.toFixed(2)} s</small>` : nothing;
};

export function resultsView() {
  if (!state.photo) return nothing;
  const view = { map: mapView, regions: regionsView, objects: objectsView }[state.mode];
  const missing = state.mode !== "objects" && !classes().length;
  return html`<h2>${{ map: "What is where", regions: "Everything", objects: "Objects" }[state.mode]} ${seconds()}</h2>
    ${missing ? html`<p class="hint">Type words above, or take those of a benchmark.</p>` : view()} ${savesView()}`;
}
