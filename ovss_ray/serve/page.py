"""The page at /: an image, words, and what the models make of them, in a browser.

It is plain files: `static/index.html`, a style sheet, and an ES module for each concern, which browsers load as they
are. Templates are those of lit-html (static/vendor: 7 kB, BSD-3-Clause, version 3.3.3 of npm without the line that
names a source map). It changes only what has changed, so that focus and selections stay, needs no build, and neither
`eval` nor script in attributes, so that the Content-Security-Policy (guard.PAGE) allows neither. React needs a build,
Alpine has its logic in attributes, Preact comes in one file only from 2022. The rest is what browsers have: canvas,
dialog, CompressionStream.

Settings are behind the # of the address, which is not sent; a key is in the tab's sessionStorage. Example images are
drawn when they are asked for.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image

from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError

STATIC = Path(__file__).parent / "static"
EXAMPLES = ("seen/validation/27", "held-out/validation/42", "seen/validation/46", "held-out/validation/8")
"""Scenes that the page offers, by their addresses (see datasets/scenes.py)."""


def add(app: FastAPI, own: Sequence[str]) -> None:
    """Add the page to an application whose models name the benchmarks `own`."""
    offered = dict.fromkeys([*own, *(name for name in benchmarks.known() if not name.startswith("folder:"))])
    app.mount("/page/static", StaticFiles(directory=STATIC))

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/page/offers", include_in_schema=False)
    def offers() -> dict[str, Any]:
        """What there is to begin with: examples with the words that are in them, and benchmarks with words."""
        drawn = [scenes.of_address(address)[0] for address in EXAMPLES]
        names = [list(dict.fromkeys(map(scenes.name, one.contents))) for one in drawn]
        return {"examples": [{"words": some} for some in names], "presets": list(offered)}

    @app.get("/page/words/{name:path}", include_in_schema=False)
    def words(name: str) -> dict[str, Any]:
        """The words of a benchmark. Only what is offered is looked up: other names could be files of this machine."""
        if name not in offered:
            raise HTTPException(404, f"there is no benchmark {name[:40]!r} here")
        try:
            one = benchmarks.load(name)
        except OvssError as failure:
            raise HTTPException(422, str(failure)) from failure
        return {"title": one.title, "classes": one.vocabulary.classes}

    @app.get("/page/example/{number}", include_in_schema=False)
    def example(number: int) -> Response:
        if not 0 <= number < len(EXAMPLES):
            raise HTTPException(404, f"there are {len(EXAMPLES)} examples")
        return Response(_drawn(number), media_type="image/png")


@lru_cache(len(EXAMPLES))
def _drawn(number: int) -> bytes:
    """The PNG of an example."""
    Image.fromarray(scenes.of_address(EXAMPLES[number])[0].image).save(file := io.BytesIO(), "PNG")
    return file.getvalue()
