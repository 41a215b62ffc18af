// Zooming by keys and by buttons, which is said to who cannot see it.

import { toFrame, view, whole, zoomBy } from "./frame.js";
import { zoomed } from "./stage.js";
import { state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const said = document.getElementById("said");
const STEP = 1.5;
export const ZOOMS = { "+": STEP, "=": STEP, "-": 1 / STEP, 0: 0 }; // key → factor; 0: the whole image

export const percentOf = (zoom) => `${Math.round(100 * zoom)}\u00a0%`;

/** Zoom by a factor around the crosshair, else the middle; 0: show the whole image. */
export function zoomAt(factor) {
  if (factor) zoomBy(factor, ...(state.cursor ? toFrame([state.cursor.x, state.cursor.y]) : []));
  else whole();
  zoomed();
  said.textContent = view.zoom === 1 ? "whole image" : `zoom ${percentOf(view.zoom)}`;
}

export const zoomView = () => (state.photo ? html`
  <div class="tabs small zoom" role="group" aria-label="Zoom">
    <button type="button" aria-label="Zoom out" title="Zoom out (−)" ?disabled=${state.zoom === 1}
      @click=${() => zoomAt(ZOOMS["-"])}>−</button>
    <output>${percentOf(state.zoom)}</output>
    <button type="button" aria-label="Zoom in" title="Zoom in (+)" @click=${() => zoomAt(ZOOMS["+"])}>+</button>
    ${state.zoom > 1 ? html`<button type="button" title="Show the whole image (0)" @click=${() => zoomAt(0)}>Whole image</button>`
      : nothing}
  </div>` : nothing);
