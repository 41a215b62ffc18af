// The page: keeps what is shown in step with what is known, and has the service asked.

import { ofAddress, served, toAddress } from "./address.js";
import { again, refresh } from "./asking.js";
import { begin as bringBack } from "./history.js";
import { example, resize } from "./images.js";
import "./keys.js";
import { summary } from "./legend.js";
import "./pointer.js";
import { whenBack } from "./reach.js";
import { resultsView } from "./results.js";
import { ask } from "./service.js";
import { draw } from "./stage.js";
import { change, listen, redo, say, state, undo } from "./state.js";
import { drawPictures, stripView } from "./strip.js";
import { modelsView, modesView, noticeView, sidesView, toolsView, welcomeView, workingView } from "./views.js";
import { render } from "./vendor/lit-html.js";
import { usePreset, wordsView } from "./words.js";

const PAUSE = 350; // milliseconds after the last change of words until the service is asked
const byId = (id) => document.getElementById(id);
const choose = () => byId("file").click();
byId("open").addEventListener("click", choose);
byId("help").addEventListener("click", () => byId("helping").showModal());

// Undo and redo, wherever the focus is but in a field.

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.target.matches("input:not([type=range]), textarea")) return;
  const pressed = event.key.toLowerCase();
  const back = pressed === "z" && !event.shiftKey;
  if (!back && pressed !== "y" && pressed !== "z") return;
  event.preventDefault();
  const done = back ? undo() : redo();
  byId("said").textContent = `${done ? "" : "nothing to "}${back ? "undo" : "redo"}${done ? "ne" : ""}`;
});

// What is shown, and what is asked.

let timer;

function show() {
  byId("open").hidden = !state.photo;
  document.body.classList.toggle("objects", state.mode === "objects");
  render(modelsView(), byId("models"));
  render(modesView(), byId("modes"));
  render(toolsView(resize), byId("tools"));
  render(sidesView(), byId("sides"));
  render(welcomeView(choose, example), byId("welcome"));
  render(workingView(), byId("working"));
  render(noticeView(), byId("notice"));
  render(wordsView(), byId("words"));
  render(resultsView(), byId("results"));
  render(stripView(), byId("strip"));
  drawPictures();
  draw();
}

listen(() => {
  show();
  toAddress();
  clearTimeout(timer);
  timer = setTimeout(refresh, state.mode === "objects" ? 0 : PAUSE);
});

/** Say to who cannot see it that an answer is there. */
let answered = {};
listen(() => {
  const { found } = state;
  if (found !== answered && Object.keys(found).length) byId("said").textContent = `Found: ${summary()}`;
  answered = found;
});

/** Learn what the service offers. What was chosen or typed meanwhile stays. */
async function learn() {
  try {
    const { models, limits } = await ask("v1/models");
    change({ models, limits });
    change(served(state));
    const { examples, presets } = await ask("page/offers");
    change({ examples, presets });
    if (state.awaited) await usePreset(state.awaited);
  } catch (failure) {
    say(failure);
  }
}

async function begin() {
  change(ofAddress()); // before anything else changes, and so writes the address anew
  show();
  await learn();
  await bringBack();
}

whenBack(async () => {
  if (!state.examples.length) await learn();
  again();
});

window.addEventListener("hashchange", ({ newURL }) => {
  change(ofAddress(new URL(newURL).hash)); // since the address may have been written anew before this event
  const { awaited, preset } = state;
  if (!awaited) change({ preset: null });
  else if (awaited === preset?.name) change({ awaited: null });
  else usePreset(awaited);
});
begin();
