"""The page in Chromium, in front of the toy models: the class of a pixel is how bright it is.

Chromium is no Python package: `apt install chromium`, or name one: CHROMIUM=/path/to/chromium. `.ci/run` gets one.
"""

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from ovss_ray.config.limits import Limits
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.serve.http.guard import digest
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture

PROGRAMS = (os.environ.get("CHROMIUM", "chromium"), "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
HEIGHT, WIDTH = 240, 320
PATIENCE = 60_000
"""Milliseconds, on a very busy machine."""
expect.set_options(timeout=PATIENCE)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    Image.fromarray(image).save(file := io.BytesIO(), kind)
    return file.getvalue()


PHOTO = {"name": "photo.png", "mimeType": "image/png", "buffer": encoded(picture(HEIGHT, WIDTH))}


class Service:
    """The toy service on a port of its own."""

    def __init__(self, key: str | None = None, models: Sequence[Model] = (), **limits: Any) -> None:
        self.toy = Toy()
        served = models or [Model(told, self.toy.send, WORDS) for told in (MODEL, OUTLINER)]
        self.app = api.build(served, Limits(**limits), key and digest(key))
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        threading.Thread(target=self.server.run, daemon=True).start()
        while not self.server.started:
            time.sleep(0.01)
        self.address = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/"


@contextmanager
def visiting(browser: Browser, address: str, *allowed: str, **options: Any) -> Iterator[Page]:
    """A fresh visitor, who must see no error in the console but those allowed, and no request to elsewhere."""
    context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options)
    page, errors, asked = context.new_page(), [], []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    context.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert not [error for error in errors if not any(one in error for one in allowed)]
    assert asked
    assert all(url.startswith((address, f"blob:{address}")) for url in asked), asked


def load(page: Page, *words: str) -> None:
    """Choose the photograph, and type words."""
    page.locator("#file").set_input_files(PHOTO)
    expect(page.locator("#canvas")).to_be_visible()
    for word in words:
        page.locator("#word").fill(word)
        page.locator("#word").press("Enter")


def names(page: Page) -> Locator:
    return page.locator("#results .list .name")


def shown(page: Page) -> np.ndarray:
    """The canvas as it is seen: (h, w, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB"))
