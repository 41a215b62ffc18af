"""The web page at /, on which a user segments an image by typing class names.

The page consists of plain files: `static/index.html`, a style sheet, and ES modules, which browsers load without a
build. Templates use lit-html (static/vendor: 7 kB, BSD-3-Clause, version 3.3.3 of npm without its source-map line).
lit-html updates only changed nodes, so focus and selections are kept. It needs no build, no `eval` and no script in
attributes. So the Content-Security-Policy (guard.PAGE) can forbid `eval` and inline scripts. Alternatives to lit-html:
React needs a build, Alpine keeps logic in attributes, and Preact's single file is from 2022. Everything else is built
into browsers: canvas, dialog, CompressionStream.

The page's settings are in the URL fragment, which is not sent to the server. The API key is in the tab's
sessionStorage. Example images are drawn on request.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.conversion import encode
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE

STATIC = Path(__file__).parents[1] / "static"
EXAMPLES = (("scenes:seen", "0027"), ("scenes:held-out", "0042"), ("scenes:seen", "0046"), ("scenes:held-out", "0008"))
"""(benchmark, image id) of each image that the page offers as an example"""


def add(app: FastAPI, configured: Sequence[str]) -> None:
    """Add the page to an application. `configured`: benchmarks named in the models' configs."""
    offered = dict.fromkeys([*configured, *(name for name in catalog.known() if not name.startswith("folder:"))])
    app.mount("/page/static", StaticFiles(directory=STATIC))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/page/offers", include_in_schema=False)
    def offers() -> dict[str, Any]:
        """Return the examples with the names of their objects, and the benchmarks whose classes can be loaded."""
        examples = [{"words": _example(number)[1]} for number in range(len(EXAMPLES))]
        return {"examples": examples, "presets": list(offered)}

    @app.get("/page/words/{name:path}", include_in_schema=False)
    def words(name: str) -> dict[str, Any]:
        """Return the title and the classes of a benchmark that the page offers.

        Other names are refused, since they could be paths of local files.
        """
        if name not in offered:
            raise HTTPException(404, f"unknown benchmark {name[:40]!r}")
        try:
            benchmark = catalog.load(name)
        except OvssError as failure:
            raise HTTPException(422, str(failure)) from failure
        return {"title": benchmark.title, "classes": benchmark.vocabulary.classes}

    @app.get("/page/example/{number}", include_in_schema=False)
    def example(number: int) -> Response:
        if not 0 <= number < len(EXAMPLES):
            raise HTTPException(404, f"unknown example {number}; available: 0 to {len(EXAMPLES) - 1}")
        return Response(_example(number)[0], media_type="image/png")


@lru_cache(len(EXAMPLES))
def _example(number: int) -> tuple[bytes, list[str]]:
    """Return the image of an example as a PNG file, and the names of the classes in its ground truth."""
    name, image_id = EXAMPLES[number]
    benchmark = catalog.load(name)
    item = next(item for item in benchmark.items("", benchmark.split) if item.image_id == image_id)
    truth = benchmark.truth(item, files.read(item.truth))
    names = [benchmark.labels[label] for label in np.unique(truth[truth != IGNORE])]
    return encode(benchmark.image(item, files.read(item.image))), names
