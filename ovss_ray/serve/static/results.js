// The list of what was found, and what can be taken away.

import { cutOut, saveCutOut } from "./cutout.js";
import { agreement, nameOf, objectsShown, percent, regionsShown, shadeOf, short } from "./legend.js";
import { choose, maskOf, remove, removeAll, select } from "./objects.js";
import { regionsView } from "./regions.js";
import { bar, candidates, others, quality, row, title } from "./rows.js";
import { saveCoco, saveLabels, saveMasks, saveOverlay } from "./save.js";
import { classes, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";
import { answerOf, outdated, stale } from "./wants.js";

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
        <span class="name">${two ? name : title(name, sides[0]?.score, JSON.parse(slots[0].words)[0].length)}</span>
        ${slots.map((_, side) => area(index, sides[side]))}`)}</li>`)}
    </ul>
    ${slots[0]?.answer.unnamed ? html`<p class="hint">${percent(slots[0].answer.unnamed / slots[0].labels.length)} of the
      pixels have no name.</p>` : nothing}
    ${same === null ? nothing : html`<p class="hint">The two agree on <b>${percent(same)}</b> of the pixels.</p>`}`;
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
  const old = outdated(object);
  return html`<li class="object ${mask && old ? "stale" : ""}">
    ${row(object.id, html`<span class="name">${title(nameOf(object), mask?.names[0]?.score)}
        ${open ? nothing : others(mask?.names ?? [])}</span> ${mask ? quality(mask.part, mask.predicted_iou) : nothing}`,
    { shade: shadeOf({ label: mask?.names[0], number: object.id }), press: () => select(object), pressed: open })}
    <button type="button" class="plain" aria-label="Remove ${nameOf(object)}" title="Remove"
      @click=${() => remove(object)}>×</button>
    ${open ? candidates(mask?.names ?? [], nameOf(object)) : nothing}
    ${masks.length > 1 && !old ? masksOf(object, masks) : nothing}
  </li>`;
}

const objectsView = () => html`
  ${state.objects.length ? nothing : html`<p class="hint">Click inside an object, or drag a box around it.</p>`}
  <ul class="list">${state.objects.map(objectRow)}</ul>
  ${state.objects.length < 2 ? nothing : html`<p class="row end">
    <button type="button" class="plain" @click=${removeAll}>Remove all</button></p>`}`;

// Downloads.

function savesView() {
  const objects = objectsShown();
  const answered = objects.length > 0 && !objects.some(({ old }) => old);
  const ready = { map: state.found.first, regions: regionsShown().length, objects: answered }[state.mode];
  if (!ready) return nothing;
  const labels = state.mode === "map" && state.other
    ? ["first", "second"].filter((slot) => state.found[slot]).map((slot) => [slot, `Labels of ${state.found[slot].model}, PNG`])
    : [["first", "Labels, PNG"]];
  const masked = state.mode !== "map";
  const cut = cutOut();
  return html`
    <h2>Download</h2>
    <p class="row">
      ${labels.map(([slot, title]) => html`<button type="button" title="PNG whose pixels are numbers"
        @click=${() => saveLabels(slot)}>${title}</button>`)}
      <button type="button" title="PNG of the image and its colours" @click=${saveOverlay}>Overlay, PNG</button>
      ${cut ? html`<button type="button" title="PNG of the image inside ${cut.name ?? "all masks"}; clear elsewhere"
        @click=${() => saveCutOut(cut)}>Cut-out${cut.name ? ` of ${short(cut.name, 24)}` : ""}, PNG</button>` : nothing}
      ${masked ? html`<button type="button" title="COCO's document: images, annotations, categories"
          @click=${saveCoco}>COCO, JSON</button>` : nothing}
      <button type="button" title="JSON of the answers, with COCO's run lengths" @click=${saveMasks}>Masks, JSON</button>
    </p>
    ${cut ? nothing : html`<p class="hint">Choose a class in the list or on the image to cut it out.</p>`}`;
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
  document.getElementById("results").classList.toggle("stale", stale());
  return html`<h2>${{ map: "What is where", regions: "Everything", objects: "Objects" }[state.mode]} ${seconds()}</h2>
    ${missing ? html`<p class="hint">Type words above, or take those of a benchmark.</p>` : view()} ${savesView()}`;
}
