// While the service cannot be reached, it is looked for. When it is back, what is missing is asked for.

import { reachable } from "./service.js";
import { listen, state } from "./state.js";

const [FIRST, LONGEST] = [3, 60]; // seconds until the service is looked for, twice as many after each time
let pause = FIRST;
let timer = null;
let known = null; // the answers at the last look
let work = () => {};

/** Set what has to be done when the service is back. */
export const whenBack = (doing) => (work = doing);

async function look() {
  clearTimeout(timer);
  timer = null;
  if (state.gone && (await reachable())) await work();
  watch();
}

function watch() {
  if (!state.gone || timer !== null) return;
  timer = setTimeout(look, 1000 * pause);
  pause = Math.min(LONGEST, 2 * pause);
}

listen(() => {
  if (state.found !== known) pause = FIRST;
  known = state.found;
  watch();
});
window.addEventListener("online", look);
