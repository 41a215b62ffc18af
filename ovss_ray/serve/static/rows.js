// Parts of the lists of what was found: colours, scores, names.

import { counted, percent, vague } from "./legend.js";
import { hex } from "./masks.js";
import { change, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const swatch = (number) => html`
  <svg class="swatch" viewBox="0 0 1 1" aria-hidden="true"><rect width="1" height="1" fill=${hex(number)}></rect></svg>`;
export const bar = (number, part) => html`
  <svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
    <rect width=${100 * part} height="1" fill=${hex(number)}></rect></svg>`;
export const scored = (score) => (score === undefined || score === null ? nothing : html`<small>score ${percent(score)}</small>`);

/** A row that lights up what it speaks of under the pointer, and goes on doing so when it is clicked. */
export function row(number, content, { shade = number, press, pressed } = {}) {
  const pin = () => change({ pinned: state.pinned === number ? null : number });
  const on = () => change({ lit: number });
  const off = () => change({ lit: state.pinned });
  return html`<button type="button" class="found" aria-pressed=${pressed ?? state.pinned === number} @click=${press ?? pin}
    @pointerenter=${on} @pointerleave=${off} @focus=${on} @blur=${off}>${swatch(shade)}${content}</button>`;
}

const FAINT = 0.005; // names with a lesser score are not worth a line

export const others = (names) => {
  const some = names.slice(1).filter(({ score }) => score >= FAINT);
  return some.length ? html`<small>or ${some.map(({ name, score }) => `${name} ${percent(score)}`).join(", ")}</small>` : nothing;
};

/** The scores of a name by the two branches of a network that has them, of which its score is made. */
const branches = ({ head, clip }) => (head === null || head === undefined ? nothing
  : html`<small title="by the trained head alone, and by CLIP alone">head ${percent(head)}${
    clip === null ? nothing : `, CLIP ${percent(clip)}`}</small>`);

/** The best names of what is chosen, with a score each. */
export const candidates = (names, title) => (names.length ? html`<ol class="names" aria-label="Best names of ${title}">
  ${names.map((one) => html`<li><span>${one.name} ${branches(one)}</span> ${bar(one.index, one.score)}
    <span>${percent(one.score)}</span></li>`)}
</ol>` : nothing);

export const quality = (part, iou) => html`<span class="quality"><span>${percent(part)}</span>
  <small title="the model's estimate of the mask: predicted IoU, or stability">quality ${iou.toFixed(2)}</small></span>`;

/** The best name with its score, or that all names are about as likely. */
export const title = (name, score, count = counted()) => (vague(score, count)
  ? html`no idea <small title="all words are about as likely here">(at best ${name} ${percent(score)})</small>`
  : html`${name} ${scored(score)}`);
