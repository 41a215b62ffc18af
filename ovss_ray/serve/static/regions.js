// The list of regions, which can be searched, and ranked by a word.

import { RANKED } from "./wants.js";
import { percent, ranking, regionsShown, shadeOf } from "./legend.js";
import { candidates, others, quality, row, scored, title } from "./rows.js";
import { change, classes, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

/** Below the word that is looked for: what the region is more likely, if there is something. */
const likelier = (names, label) => (names.length && names[0].index !== label.index
  ? html`<small>(more likely ${names[0].name} ${percent(names[0].score)})</small>` : nothing);

function regionRow({ number, place, names, label, part, predicted_iou: iou }) {
  const name = label?.name ?? `Region ${number + 1}`;
  const open = state.pinned === number;
  return html`<li class="region">${row(number, html`
    <span class="name">${place ? html`${place}. ${name} ${scored(label.score)}` : title(name, label?.score)}
      ${open ? nothing : place ? likelier(names, label) : others(names)}</span>
    ${quality(part, iou)}`, { shade: shadeOf({ label, number }) })} ${open ? candidates(names, name) : nothing}</li>`;
}

const wordMenu = (rankings) => html`<label class="grow">Look for <select id="rank"
    @change=${({ target }) => change({ rank: target.value, pinned: null, lit: null })}>
  <option value="" .selected=${!ranking()}>all words, largest first</option>
  ${rankings.map(({ name }) => html`<option value=${name} .selected=${name === state.rank}>${name}</option>`)}
</select></label>`;

const slider = (title, key, least, most) => html`<label class="grow">${title} <input type="range" min=${least} max=${most}
  .value=${String(state[key])} @input=${({ target }) => change({ [key]: Number(target.value) })}></label>`;

export function regionsView() {
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
