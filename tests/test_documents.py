"""README, CONTRIBUTING, CHANGELOG and docs/: links, paths and sentences. Their commands: test_documented_commands."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import ovss_ray
from tests.paths import ROOT
from tests.test_architecture import LAYERS

pytestmark = pytest.mark.ray

DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md", "perf/RESULTS.md")
]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
EVERY = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
WORDS = 20
"""Words of the longest sentence; code in backticks is one word."""
OLD = r"\b(told|parted|mend\w*|anew|dear|heed\w*|beside|in hand|given up|passed by|so many|whoever|nobody)\b"


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [content for marked, content in found if marked == language]


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors that headings of a document have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sentences(document: Path) -> Iterator[str]:
    """The sentences of paragraphs, lists and table cells, each code in backticks as one word."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose(document))
    lines = re.sub(r"`[^`]+`", "CODE", text).splitlines()
    parts = [""]
    for line in map(str.strip, lines):
        if line.startswith(("|", "#")) or not line:
            parts += [*line.strip("|").split("|"), ""]
        elif re.match(r"([-*]|\d+\.) ", line):
            parts.append(line.split(" ", 1)[1])
        else:
            parts[-1] += f" {line}"
    for part in parts:
        yield from re.split(r"(?<=[.!?]) +(?=[A-Z\d*])|; |(?<=[.!?])\*\* ", part)


@EVERY
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.is_file() or (target.is_dir() and document == ROOT / "README.md"), f"{link}: name a file"
            assert not anchor or anchor in anchors(target), link


@EVERY
def test_paths_of_the_repository_exist(document: Path) -> None:
    for path in re.findall(r"`((?:ovss_ray|tests|configs|perf|jobs|examples|docs|cluster)/[\w./]*)`", prose(document)):
        assert "NAME" in path or (ROOT / path).exists(), path


@EVERY
def test_python_in_documents_is_valid_and_uses_names_that_exist(document: Path) -> None:
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "ovss_ray":
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), alias.name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ovss_ray":
                assert hasattr(ovss_ray, node.attr), node.attr


@EVERY
def test_sentences_are_short_and_words_are_todays(document: Path) -> None:
    for sentence in sentences(document):
        count = len([word for word in sentence.split() if re.search(r"\w", word)])
        assert count <= WORDS, f"{count} words: {sentence}"
        assert not re.search(OLD, sentence, re.IGNORECASE), sentence
        assert not re.match(r"\W*What\b(?!.*\?)(?! changed)", sentence), sentence


def test_the_layers_in_contributing_are_those_of_the_architecture() -> None:
    rows = [line.split("|")[2] for line in (ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines() if "| `" in line]
    row = {name: number for number, cell in enumerate(rows) for name in re.findall(r"`(\w+)`", cell)}
    places = [{row[name] for name in layer} for layer in LAYERS]
    assert all(len(place) == 1 for place in places), "packages of one layer stand in one row"
    assert places == sorted(places, key=max, reverse=True), "the top layer comes first"


def test_one_version_is_named_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["version"] == project["version"] == ovss_ray.__version__
    assert citation["license"] == project["license"]
    assert f" {project['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_readme_is_a_page_and_its_picture_small() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 160
    assert (ROOT / "docs/scenes.png").stat().st_size < 60_000


def numbers(table: str) -> list[str]:
    """The rows of a table that name a benchmark, without lines and spaces."""
    return [re.sub(r"[│\s]+", " ", line).strip() for line in table.splitlines() if "scenes:" in line and "│" in line]


@pytest.mark.slow
def test_the_first_command_prints_the_table_of_the_readme(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ovss_ray", "evaluate", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (expected,) = (block for block in blocks(ROOT / "README.md", "") if "side by side" in block)
    printed = done.stdout[done.stdout.index("side by side") :]
    assert len(numbers(expected)) == 2
    assert [figures(row) for row in numbers(printed)] == [
        pytest.approx(figures(row), abs=0.1) for row in numbers(expected)
    ]


def figures(row: str) -> list[float]:
    """The mIoU values of a row."""
    return [float(value) for value in re.findall(r"\d+\.\d+", row)]
