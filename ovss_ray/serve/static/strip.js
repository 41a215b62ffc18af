// The strip of the last results, below the image.

import { clear, recall } from "./history.js";
import { state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const pictureOf = ({ id, title, picture }) => html`<li><button type="button" title=${title} @click=${() => recall(id)}>
  <canvas class="past" data-id=${id} width=${picture.width} height=${picture.height} role="img" aria-label=${title}></canvas>
</button></li>`;

export const stripView = () => (state.history.length ? html`
  <h2 id="strip-title">Last results <small>kept in this browser only</small></h2>
  <ul aria-labelledby="strip-title">${state.history.map(pictureOf)}</ul>
  <button type="button" class="plain" @click=${clear}>Forget them</button>` : nothing);

let drawn = [];

/** Put the pictures on the canvases of the strip, if the results have changed. */
export function drawPictures() {
  if (drawn === state.history) return;
  drawn = state.history;
  for (const canvas of document.querySelectorAll("#strip canvas")) {
    const { picture } = drawn.find(({ id }) => id === canvas.dataset.id);
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }
}
