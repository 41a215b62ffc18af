"""Rendering of self-contained HTML pages: style, script and pictures are inside the page."""

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ovss_ray.reports.documents import values

_TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, **context: Any) -> str:
    """Return the HTML of a page. All text in `context` is escaped, also inside scripts."""
    assets = {name: (_TEMPLATES / name).read_text("utf-8") for name in ("page.css", "page.js")}
    assets = {"style": assets["page.css"], "script": assets["page.js"], "version": _version()}
    return _environment().get_template(template).render(**assets, **context)


def _version() -> str:
    """Return the version of ovss_ray; empty if the package is not installed."""
    try:
        return importlib.metadata.version("ovss_ray")
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": values.percent, "interval": values.interval, "thousands": "{:,}".format}
    return environment
