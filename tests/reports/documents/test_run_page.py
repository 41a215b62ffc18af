"""report.html: its content, what it says about missing parts, and text that would harm a page."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovss_ray import metrics
from ovss_ray.cli.app import app
from ovss_ray.config.run import Pool, RunConfig
from ovss_ray.metrics.confusion import Partial
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports.documents import citations, confusions, gallery, pictures, provenance, values
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder
from tests.paths import ROOT
from tests.reports.documents.conftest import HOSTILE, NAMES, evaluated

OLD = ROOT / "tests/data/old_runs"


class Page(HTMLParser):
    """The elements, the ids and the texts of a page; the data of its script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        if self.elements and self.elements[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data = json.loads(data)
        elif self.elements and self.elements[-1][0] not in ("style", "script"):
            self.texts.append(data)


def page(folder: RunFolder, *options: str) -> Page:
    done = CliRunner().invoke(app, ["report", folder.uri, "--html", *options])
    assert done.exit_code == 0, done.output
    return Page((Path(folder.uri) / "report.html").read_text("utf-8"))


def images(made: Page) -> list[dict[str, Any]]:
    return made.data["benchmarks"][0]["images"]


def test_a_page_says_first_what_was_requested_and_has_every_part(run: RunFolder) -> None:
    made = page(run)
    report = json.loads((Path(run.uri) / "report.json").read_text())["benchmarks"]
    (benchmark,) = report.values()
    assert made.text.index("All 8 requested images have a result.") < made.text.index("mIoU and related metrics")
    low, high = benchmark["bootstrap"]["metrics"]["miou"]
    assert f"{benchmark['metrics']['miou']:.2f} {low:.2f}–{high:.2f}" in made.text
    for words in ("Confusions that cost most", "Distribution of the images' own mIoU", "Commands", "Provenance"):
        assert words in made.text
    assert f"run {json.loads((Path(run.uri) / 'report.json').read_text())['run']['digest']}" in made.text
    shown = images(made)
    assert len(shown) == 8
    for image in shown:
        pictures = [image["photo"], image["truth"], *image["predictions"], *image["differences"]]
        assert all(picture.startswith("data:image/webp;base64,") for picture in pictures)
        assert sum(truth for _, truth, _, _ in image["classes"][0]) == 56 * 80, "ignored rows are not counted"


def test_names_cannot_become_markup_or_end_the_script(run: RunFolder) -> None:
    made = page(run)
    text = (Path(run.uri) / "report.html").read_text("utf-8")
    assert HOSTILE not in text
    assert "</script><b>" not in text
    assert not [attributes for tag, attributes in made.elements if tag == "b" and "class" in attributes]
    assert [tag for tag, _ in made.elements].count("script") == 2
    assert made.data["benchmarks"][0]["labels"] == NAMES
    assert HOSTILE in made.text
    assert any(image["id"] == "3<b>" for image in images(made))


def test_a_page_refers_to_nothing_outside_of_itself(run: RunFolder) -> None:
    made = page(run)
    links = [value for _, attributes in made.elements for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(str(link).startswith(("#", "data:")) for link in links)
    anchors = {attributes.get("id") for _, attributes in made.elements}
    assert {str(link)[1:] for link in links if str(link).startswith("#")} <= anchors


def test_an_interrupted_run_with_failures_says_so_with_the_causes(root: Path, tmp_path: Path) -> None:
    made = page(evaluated(tmp_path / "run", root, only=5, options={"refuse": "1<b>"}))
    assert "not final" in made.text
    assert "4 of 8 images have no result" in made.text
    assert "too dark: 1<b> has 3 of 255 levels" in made.text
    assert {image["id"] for image in images(made)} == {"0<b>", "2<b>", "3<b>", "4<b>"}


def test_a_gallery_without_label_maps_photographs_or_wishes_says_why(
    root: Path, run: RunFolder, tmp_path: Path
) -> None:
    without = page(evaluated(tmp_path / "none", root, keep_predictions="none"))
    assert "--set keep_predictions=all" in without.text
    assert images(without)[0]["photo"]
    assert not images(without)[0]["differences"][0]
    moved = shutil.copytree(root, tmp_path / "moved")
    lost = evaluated(tmp_path / "lost", moved)
    shutil.rmtree(moved)
    gone = page(lost)
    assert "Some or all photographs are missing: " in gone.text
    assert images(gone)[0]["predictions"][0]
    assert "The page was requested without images." in page(run, "--gallery", "0").text
    few = page(run, "--gallery", "3")
    assert len(images(few)) == 3
    page(run)


def test_pictures_and_notes_follow_the_own_words_of_a_run(worded: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = page(worded)
    assert "4 own words of the config, sha256 " in made.text
    for image in images(made):
        picture = Image.open(io.BytesIO(base64.b64decode(image["differences"][0].partition(",")[2])))
        shown = int((np.asarray(picture) == pictures.WRONG).all(axis=2).sum())
        assert shown == sum(truth for _, truth, _, _ in image["classes"][0]) - sum(of[3] for of in image["classes"][0])
    monkeypatch.setattr(pictures, "gives_words", lambda config: True)
    free = page(worded)
    assert "cannot be shown: each image has its own vocabulary" in free.text
    assert not any(image["predictions"][0] or image["differences"][0] for image in images(free))


def test_the_precision_of_each_network_is_stated() -> None:
    stages = (
        StageConfig(use="sam"),
        StageConfig(use="alpha_clip", options={"precision": "bf16"}),
        StageConfig(use="paint"),
    )
    assert provenance.precisions(RunConfig(pools=[Pool(stages=stages)])) == [
        "precision of sam: fp32, TensorFloat-32 (TF32) off",
        "precision of alpha_clip: bf16, TensorFloat-32 (TF32) off",
    ]


def test_a_metric_of_fewer_images_says_so_and_every_benchmark_gets_an_image(run: RunFolder) -> None:
    (benchmark,) = Report.load(run.uri).benchmarks.values()
    assert values.covered(benchmark, metrics.load("confusion")) == "8/8"
    fewer = benchmark.model_copy(update={"measured": {"confusion": 3}})
    assert values.covered(fewer, metrics.load("confusion")) == "3/8, not final"
    assert [gallery.share(*of) for of in ((3, 4), (0, 4), (101, 4))] == [1, 0, 25]


@pytest.mark.parametrize("name", ["san_tiny-finished", "sam_alpha_clip_tiny-interrupted"])
def test_runs_of_an_earlier_version_have_a_page(name: str, tmp_path: Path) -> None:
    made = page(RunFolder(str(shutil.copytree(OLD / name, tmp_path / name))), "--gallery", "4")
    assert "are of an earlier version and hold no digests" in made.text
    assert "kirillov2023sam" in made.text if name.startswith("sam") else "xu2023san" in made.text
    assert len(images(made)) in (2, 3)


def test_the_cost_of_a_confusion_is_what_the_miou_gains_without_it() -> None:
    generator = np.random.default_rng(1)
    partial = Partial(generator.integers(1, 90, (5, 6)))
    partial.counts[3] = 0  # a class that is not in the truth
    listed = confusions.costliest(partial, None, 100)
    assert len(listed) == 20
    assert [one.cost for one in listed] == sorted((one.cost for one in listed), reverse=True)
    for one in listed:
        right = partial.counts.copy()
        right[one.truth, one.truth] += right[one.truth, one.prediction]
        right[one.truth, one.prediction] = 0
        assert one.cost == pytest.approx(Partial(right).miou - partial.miou)


def test_every_citation_that_a_stage_or_a_benchmark_needs_is_an_entry() -> None:
    keys = {key for keys in (*citations.STAGES.values(), *citations.BENCHMARKS.values()) for key in keys}
    assert keys == set(citations.entries())
    assert citations.bibtex(["san"], ["ade20k:150@catseg", "voc:20"]).count("@inproceedings") == 2
