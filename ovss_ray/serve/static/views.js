// The parts around the image: models, modes, tools, the welcome, what goes wrong.

import { again, cancel } from "./asking.js";
import { select } from "./objects.js";
import { can, change, MODES, modelOf, redo, state, undo, undoable } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";
import { modelFor } from "./wants.js";
import { zoomView } from "./zoom.js";

const options = (models, chosen) => models.map(({ name }) => html`
  <option value=${name} ?selected=${name === chosen}>${name}</option>`);

export function modelsView() {
  const others = state.models.filter((model) => model.name !== state.model && can(model, "map"));
  const chosen = ({ target }) => change({ model: target.value, other: state.other === target.value ? "" : state.other });
  return html`
    <label>Model <select id="model" .value=${state.model} @change=${chosen}>${options(state.models, state.model)}</select></label>
    ${others.length && state.mode === "map" ? html`<label>Compare with
      <select id="other" .value=${state.other} @change=${({ target }) => change({ other: target.value })}>
        <option value="" ?selected=${!state.other}>none</option>${options(others, state.other)}</select></label>` : nothing}`;
}

export function modesView() {
  const mode = ([name, { title, about }]) => {
    const able = modelFor(name) !== null || !state.models.length;
    const why = able ? about : "No model here can: serve one with a stage sam, such as sam_alpha_clip_tiny";
    return html`<button type="button" aria-pressed=${name === state.mode} ?disabled=${!able} title=${why}
      @click=${() => change({ mode: name, lit: null, pinned: null, cursor: null, corner: null })}>${title}</button>`;
  };
  return html`<div class="tabs" role="group" aria-label="What to do">${Object.entries(MODES).map(mode)}</div>`;
}

const TOOLS = { inside: "Inside", outside: "Outside", box: "Box" };

function objectTools() {
  const { undo: back, redo: forth } = undoable();
  return html`
    <div class="tabs small" role="group" aria-label="A click or a finger sets">
      ${Object.entries(TOOLS).map(([name, title]) => html`<button type="button" aria-pressed=${state.tool === name}
        @click=${() => change({ tool: name })}>${title}</button>`)}
    </div>
    <button type="button" ?disabled=${!state.selected} @click=${() => select(null)}>New object</button>
    <button type="button" ?disabled=${!back} @click=${undo} title="Ctrl+Z">Undo</button>
    <button type="button" ?disabled=${!forth} @click=${redo} title="Ctrl+Y">Redo</button>`;
}

const captionTool = () => html`<label class="check"><input id="names" type="checkbox" .checked=${state.names}
  @change=${({ target }) => change({ names: target.checked })}> Names on the masks</label>`;

/** For an image that is too large to be answered soon: its size, and whether it is sent so. */
const sizeTool = ({ width, height, full }, resize) => html`
  <label class="check"><input id="full" type="checkbox" .checked=${state.full}
    @change=${({ target }) => resize(target.checked)}> Full size (${full.width} × ${full.height})</label>
  ${state.full ? nothing : html`<small>Sent as ${width} × ${height}, which is faster.</small>`}`;

export function toolsView(resize) {
  if (!state.photo) return nothing;
  const asked = modelFor(state.mode);
  return html`
    <label class="opacity">Opacity <input id="opacity" type="range" max="100" .value=${String(state.opacity)}
      @input=${({ target }) => change({ opacity: Number(target.value) })}></label>
    ${zoomView()}
    ${state.mode === "map" ? nothing : captionTool()}
    ${state.mode === "objects" ? objectTools() : nothing}
    ${state.photo.full ? sizeTool(state.photo, resize) : nothing}
    ${asked && asked !== state.model ? html`<small>${state.model} cannot do this; ${asked} is asked.</small>` : nothing}
    ${learned(modelOf(asked))}`;
}

/** What the small networks that come with the project are good for: not for photographs. */
function learned(model) {
  const small = model?.stages?.some(({ options: some }) => /_tiny$/.test(some?.variant ?? ""));
  if (!small || state.photo.example !== undefined) return nothing;
  return html`<small class="learned">${model.name} knows drawn scenes only: its answers for photographs make no sense. One that
    knows photographs: <code>ovss serve san_vit_b_16</code></small>`;
}

/** Whose side of the boundary is whose, when two are compared. */
export const sidesView = () => (state.mode === "map" && state.other
  ? html`<span>${state.found.first?.model}</span><span>${state.found.second?.model}</span>` : nothing);

export const welcomeView = (choose, example) => (state.photo ? nothing : html`
  <div class="welcome">
    <h2>Name what is in an image</h2>
    <p>Drop a photograph here, paste it, or choose one, and type the words to look for.</p>
    <p><button type="button" class="main" @click=${choose}>Choose an image</button></p>
    ${state.examples.length ? html`<h3>Or try a drawn scene, or a simulated photograph of one</h3>
      <div class="examples">${state.examples.map(({ words }, number) => html`
        <button type="button" @click=${() => example(number)}>
          <img src="page/example/${number}" width="160" height="128"
            alt="${number + 1 < state.examples.length ? "Drawn scene" : "Photograph"}: ${words.join(", ")}"></button>`)}
      </div>` : nothing}
  </div>`);

/** "3 ahead, about 5 s", of a request in the queue. */
const placeOf = ({ ahead, seconds }) => [...(ahead ? [`${ahead} ahead`] : []),
  ...(seconds ? [`about ${Math.ceil(seconds)} s`] : [])].join(", ");

export function workingView() {
  if (!state.busy) return nothing;
  const { wait } = state.busy;
  const text = wait?.left ? `${wait.status === 429 ? "Busy" : "Not ready"}: asked again in ${Math.ceil(wait.left)} s`
    : ["Working …", ...(wait ? [placeOf(wait)] : [])].join(" ");
  return html`<div class="working" role="status"><span class="spin" aria-hidden="true"></span> ${text}
    <button type="button" class="plain" @click=${cancel}>Cancel</button></div>`;
}

export function noticeView() {
  const { failure } = state;
  if (!failure) return nothing;
  return html`<div class="notice"><p><b>${failure.title}</b>${failure.detail ? html`<br>${failure.detail}` : nothing}</p>
    <p class="row">${state.photo ? html`<button type="button" @click=${again}>Try again</button>` : nothing}
      <button type="button" class="plain" @click=${() => change({ failure: null })}>Dismiss</button></p></div>`;
}
