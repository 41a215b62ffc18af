"""Settings of Sphinx, which builds the pages from the Markdown files that GitHub shows.

Run in the root of the repository:

    uv run --group docs sphinx-build -W -c docs . build/docs

The source folder is the whole repository, since pages also link to files outside docs/.
"""

import posixpath
import re
from pathlib import Path

from pydantic import BaseModel
from sphinx.application import Sphinx

import ovss_ray

project = "ovss_ray"
author = "The ovss_ray authors"
copyright = author  # noqa: A001 (a setting of Sphinx)
version = release = ovss_ray.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/README"
PAGES = ("docs/*.md", "cluster/README.md", "perf/RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")
include_patterns = list(PAGES)
FOLDERS = {Path(page).parts[0] for page in PAGES}
exclude_patterns = [path.name for path in Path(__file__).parents[1].iterdir() if path.name not in FOLDERS]
"""Runs and data may be large: only the folders of pages are searched."""

myst_heading_anchors = 4  # the anchors that GitHub gives to headings
highlight_language = "none"
default_role = "literal"  # `code` in docstrings
smartquotes = False  # docstrings quote code

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"exclude-members": "model_config, model_post_init, Config", "undoc-members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"ovss_ray {release}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["pages/pages.css"]
html_css_files = ["pages.css"]
templates_path = ["pages"]
html_additional_pages = {"index": "redirect.html"}


def order(app: Sphinx, page: str, content: list[str]) -> None:
    """Add the links of the first page to the navigation, in the order and under the headings of this page."""
    if page != root_doc:
        return
    parts = re.split(r"^## (.+)$", content[0], flags=re.MULTILINE)[1:]
    for heading, part in zip(parts[::2], parts[1::2], strict=True):
        links = re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\.md\)", part, re.MULTILINE)
        listed = "\n".join(f"{title} <{posixpath.normpath(f'/docs/{path}')}>" for title, path in links)
        if links:
            content[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{listed}\n```\n"


def unsigned(app: Sphinx, what: str, name: str, value: object, *others: object) -> tuple[str, None] | None:
    """Return an empty signature for pydantic models, whose fields are listed below it; None for other objects."""
    return ("", None) if isinstance(value, type) and issubclass(value, BaseModel) else None


def setup(app: Sphinx) -> None:
    """Connect the functions above with Sphinx."""
    app.connect("source-read", order)
    app.connect("autodoc-process-signature", unsigned)
