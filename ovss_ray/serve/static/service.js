// Requests to the service: with its key, again when it is busy, and what it refuses in words.

const TITLES = {
  0: "The service cannot be reached",
  400: "The request could not be read",
  401: "That key is wrong",
  403: "This machine may not ask",
  404: "Not here",
  413: "The image is too large",
  415: "Not a JPEG, PNG or WebP",
  422: "This cannot be answered",
  429: "The service is busy",
  503: "The service is not ready",
  504: "This took longer than the service allows",
};
const AWAY = [404, 500, 502]; // without JSON, Ray Serve has answered, in the place of a service that restarts
const PATIENCE = 300; // seconds for which the service is asked again while it is busy or not ready
const LOOK = 1000; // milliseconds between two looks at the queue
const KEY = "ovss_ray key"; // in sessionStorage

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
    this.title = TITLES[status] ?? "The service has failed";
  }
}

/**
 * Ask for JSON. When the service says 429 or 503 it is asked again, after as many seconds as it says and up to two more,
 * so that not all pages return at once (`told` hears how many are left); when it says 401, once a key was typed. What was
 * too slow for the service (504) is not asked again: it would be too slow once more. With `place`, `told` also hears the
 * request's place in the queue.
 *
 * Throws a Refusal, or an AbortError if `signal` says so.
 */
export async function ask(path, { body, signal, told = () => {}, patience = PATIENCE, place = false } = {}) {
  let until = Date.now() + 1000 * patience;
  for (;;) {
    const answer = place ? await queued(path, body, signal, told) : await once(path, body, signal);
    if (answer.ok) return answer.json();
    if (answer.status === 401) {
      await unlock(answer.sent);
      until = Date.now() + 1000 * patience;
    } else if ([429, 503].includes(answer.status) && Date.now() < until) {
      const seconds = Math.min(Math.max(Number(answer.headers.get("Retry-After")) || 1, 1), 30) + 2 * Math.random();
      await pause(seconds, signal, (left) => told({ status: answer.status, left }));
    } else {
      throw new Refusal(answer.status, await detail(answer));
    }
  }
}

/** Ask once, and tell the request's place in the queue, {ahead, seconds}, while it waits. */
async function queued(path, body, signal, told) {
  const id = [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(16)).join("-");
  const look = async () => {
    const answer = await once(`v1/queue?${new URLSearchParams({ request: id })}`, null, signal).catch(() => null);
    if (answer?.ok && looking) told(await answer.json());
  };
  let looking = setInterval(look, LOOK);
  try {
    return await once(path, body, signal, { "X-Request-ID": id });
  } finally {
    clearInterval(looking);
    looking = null;
    told(null);
  }
}

/** Whether the service runs and can be reached. */
export const reachable = () => once("v1/health").then(({ ok }) => ok, () => false);

/** The bytes of one of the page's own files. Throws a Refusal. */
export async function file(path) {
  const answer = await once(path);
  if (!answer.ok) throw new Refusal(answer.status, await detail(answer));
  return answer.blob();
}

async function once(path, body, signal, more) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...more, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", body, signal, headers });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Refusal(0, "It has been stopped, or this machine is offline. Image, objects and results stay here.");
  }
  if (AWAY.includes(answer.status) && !answer.headers.get("Content-Type")?.includes("json"))
    throw new Refusal(0, "It restarts. Image, objects and results stay here.");
  answer.sent = key;
  return answer;
}

async function detail(answer) {
  try {
    return String((await answer.json()).detail);
  } catch {
    return `It answered ${answer.status}.`;
  }
}

async function pause(seconds, signal, told) {
  for (let left = seconds; left > 0; left -= 1) {
    told(left);
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(1, left)));
    signal?.throwIfAborted();
  }
}

let typing = null; // one dialog for all requests that wait for a key

function unlock(sent) {
  if (sessionStorage.getItem(KEY) !== sent) return null; // another request has got one meanwhile
  typing ??= new Promise((resolve) => {
    const dialog = document.getElementById("keying");
    const field = document.getElementById("key");
    field.setCustomValidity("");
    field.value = "";
    document.getElementById("keying-title").textContent = sent ? TITLES[401] : "This service needs a key";
    dialog.addEventListener(
      "close",
      () => {
        if (field.value) sessionStorage.setItem(KEY, field.value.trim());
        typing = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return typing;
}
