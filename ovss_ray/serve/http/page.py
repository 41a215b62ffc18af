"""The web page at /, on which a user segments an image by typing class names.

The page consists of plain files in `static`, and needs no build. `static/vendor/lit-html.js` is lit-html 3.3.3 from
npm, without the line that names a source map.
"""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image, ImageFilter

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.conversion import encode
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE

# lit-html updates only changed nodes, so focus and selections are kept. It uses neither `eval` nor inline scripts, so
# the Content-Security-Policy in guard.PAGE can forbid both.
STATIC = Path(__file__).parents[1] / "static"
EXAMPLES = (("scenes:seen", "0027"), ("scenes:held-out", "0042"), ("scenes:seen", "0046"), ("scenes:held-out", "0008"))
"""(benchmark, image id) of each image that the page offers as an example"""
PHOTOGRAPHED = ("scenes:seen", "0046")
"""(benchmark, image id) of a scene. The last example on the page is a simulated photograph of this scene."""


def add(app: FastAPI, configured: Sequence[str]) -> None:
    """Add the page to an application. `configured`: benchmarks named in the models' configs."""
    offered = dict.fromkeys([*configured, *(name for name in catalog.known() if not name.startswith("folder:"))])
    app.mount("/page/static", StaticFiles(directory=STATIC))
    _add_description(app)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/page/offers", include_in_schema=False)
    def offers() -> dict[str, Any]:
        """Return the examples with the names of their objects, and the benchmarks whose classes can be loaded."""
        examples = [{"words": _example(number)[1]} for number in range(len(EXAMPLES))]
        examples.append({"words": _drawn(*PHOTOGRAPHED)[1]})
        return {"examples": examples, "presets": list(offered)}

    @app.get("/page/words/{name:path}", include_in_schema=False)
    def words(name: str) -> dict[str, Any]:
        """Return the title and the classes of the benchmark `name`.

        Raises HTTPException 404 if the page does not offer this benchmark.
        """
        if name not in offered:  # the name could be the path of another local file
            raise HTTPException(404, f"unknown benchmark {name[:40]!r}")
        try:
            benchmark = catalog.load(name)
        except OvssError as failure:
            raise HTTPException(422, str(failure)) from failure
        return {"title": benchmark.title, "classes": benchmark.vocabulary.classes}

    @app.get("/page/example/{number}", include_in_schema=False)
    def example(number: int) -> Response:
        if not 0 <= number <= len(EXAMPLES):
            raise HTTPException(404, f"unknown example {number}; available: 0 to {len(EXAMPLES)}")
        if number == len(EXAMPLES):
            return Response(_photograph(), media_type="image/jpeg")
        return Response(_example(number)[0], media_type="image/png")


def _add_description(app: FastAPI) -> None:
    @app.head("/docs", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(description(app.openapi()))


def description(document: Mapping[str, Any]) -> str:
    """Return an OpenAPI document as an HTML page. The page has no scripts, since guard.PAGE forbids inline scripts."""
    sections = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(route.get('summary', ''))}.</p>"
        + "".join(f"<p>{escape(text)}</p>" for text in route.get("description", "").split("\n\n") if text)
        + _table("Field", {item["name"]: _about(item) for item in route.get("parameters", ())})
        + _table("Status", {status: answer["description"] for status, answer in route["responses"].items()})
        + "</section>"
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ovss_ray: API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="page/static/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="page/static/page.css"></head><body class="api"><main><h1>ovss_ray: API</h1>'
        "<p>A POST takes an image as its body, with the fields in the query; or a form with the fields and the file "
        "<code>image</code>; or a JSON document with the image in base64. For programs: "
        '<a href="v1/openapi.json">openapi.json</a>.</p>' + "".join(sections) + "</main></body></html>"
    )


def _about(parameter: Mapping[str, Any]) -> str:
    """Return the description of an OpenAPI parameter, followed by the default value if the parameter has one."""
    schema = parameter.get("schema", {})
    text = str(parameter.get("description") or schema.get("title", ""))
    return f"{text} (default: {schema['default']})" if schema.get("default") not in (None, [], "") else text


def _table(title: str, rows: Mapping[str, str]) -> str:
    """Return an HTML table of names and texts. If there are no rows, return an empty string."""
    if not rows:
        return ""
    cells = (f"<tr><th><code>{escape(name)}</code></th><td>{escape(text)}</td></tr>" for name, text in rows.items())
    return f"<table><thead><tr><th>{title}</th><th>Meaning</th></tr></thead><tbody>{''.join(cells)}</tbody></table>"


@lru_cache(len(EXAMPLES))
def _example(number: int) -> tuple[bytes, list[str]]:
    """Return the image of an example as a PNG file, and the names of the classes in its ground truth."""
    image, names = _drawn(*EXAMPLES[number])
    return encode(image), names


@lru_cache(1)
def _photograph() -> bytes:
    """Return a simulated photograph of a printed scene, as a JPEG file.

    The photograph is tilted and blurred, and has uneven light and noise.
    """
    # at 97 % of its pixels, `san_tiny` predicts the same class as for the drawn scene
    image, _ = _drawn(*PHOTOGRAPHED)
    height, width = 2 * image.shape[0], 2 * image.shape[1]
    corners = (0.01 * width, 0.015 * height, 0, 0.99 * height, 0.985 * width, height, 0.995 * width, 0)
    size, smooth = (width, height), Image.Resampling.BICUBIC
    tilted = Image.fromarray(image).resize(size, smooth).transform(size, Image.Transform.QUAD, corners, smooth)
    pixels = np.asarray(tilted.filter(ImageFilter.GaussianBlur(1)), np.float32)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = (1 - 0.11 * (x * x + y * y))[..., None] * (0.95, 0.91, 0.84)
    noise = np.random.default_rng(0).normal(8, 5, pixels.shape)
    seen = np.clip(pixels * light + noise, 0, 255).astype(np.uint8)
    Image.fromarray(seen).save(file := io.BytesIO(), "JPEG", quality=85)
    return file.getvalue()


@lru_cache(len(EXAMPLES) + 1)
def _drawn(name: str, image_id: str) -> tuple[np.ndarray, list[str]]:
    """Return a drawn scene, (H, W, 3) uint8, and the names of the classes in its ground truth."""
    benchmark = catalog.load(name)
    item = next(item for item in benchmark.items("", benchmark.split) if item.image_id == image_id)
    truth = benchmark.truth(item, files.read(item.truth))
    names = [benchmark.labels[label] for label in np.unique(truth[truth != IGNORE])]
    return benchmark.image(item, files.read(item.image)), names
