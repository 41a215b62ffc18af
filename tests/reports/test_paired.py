"""Paired differences of runs: the test, Holm's correction, and refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from typer.testing import CliRunner

from ovss_ray import metrics
from ovss_ray.api import comparison
from ovss_ray.cli.app import app
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion, episodes
from ovss_ray.metrics.confusion import Counter
from ovss_ray.reports import paired, statistics_tables
from ovss_ray.reports.totals import Reading
from tests.reports import test_intervals, test_report
from tests.reports.test_intervals import LABELS, reading


def table(numbers: list[int], gain: float, seed: int = 0) -> pa.Table:
    """Return records of images whose truth depends on the number alone; `gain` is the share of pixels made right."""
    cells = []
    for k in numbers:
        generator = np.random.default_rng(k)
        truth = generator.integers(0, LABELS, (10, 12)).astype(np.uint16)
        wrong = generator.integers(0, LABELS, truth.shape)
        right = np.random.default_rng([seed, k]).random(truth.shape) < 0.5 + gain
        cells.append(Counter(LABELS)(truth, np.where(right, truth, wrong).astype(np.uint16)))
    rows = test_intervals.rows(numbers)
    return rows.set_column(3, "confusion", pa.chunked_array([pa.array(cells, confusion.schema)]))


def run(gain: float, seed: int = 0, images: int = 30) -> Reading:
    return reading(table(list(range(images)), gain, seed))


def test_a_better_run_is_better_and_the_same_run_is_not() -> None:
    better = paired.compare(run(0.0), run(0.1))
    assert better.values is not None
    assert better.classes is not None
    miou = better.values["miou"]
    assert miou.interval[0] < miou.value < miou.interval[1]
    assert miou.interval[0] > 0
    assert miou.p < 0.001
    assert 0 < miou.smallest < miou.value
    assert set(better.classes) == set(range(LABELS))
    same = paired.compare(run(0.0), run(0.0))
    assert same.values is not None
    assert (same.values["miou"].value, same.values["miou"].p, same.values["miou"].interval) == (0.0, 1.0, (0.0, 0.0))


def test_the_difference_of_exchanged_runs_has_the_other_sign() -> None:
    there, back = paired.compare(run(0.0), run(0.04, 1)), paired.compare(run(0.04, 1), run(0.0))
    assert there.values is not None
    assert back.values is not None
    for key, difference in there.values.items():
        assert back.values[key].value == pytest.approx(-difference.value)
        assert back.values[key].p == pytest.approx(difference.p)
        assert back.values[key].interval == pytest.approx((-difference.interval[1], -difference.interval[0]), abs=1e-6)


def test_pixel_accuracy_of_equal_images_is_tested_as_by_scipy() -> None:
    first, second = run(0.0), run(0.02, 1)
    accuracies = []
    for content in (first, second):
        partials = [confusion.Partial.of(pa.array([row], confusion.schema), LABELS) for row in _rows(content)]
        accuracies.append(np.array([partial.pacc for partial in partials]))
    expected = stats.ttest_rel(accuracies[1], accuracies[0])
    ours = paired.compare(first, second).values
    assert ours is not None
    assert ours["pacc"].value == pytest.approx((accuracies[1] - accuracies[0]).mean())
    assert ours["pacc"].p == pytest.approx(expected.pvalue, rel=0.35)


def _rows(content: Reading) -> list[Any]:
    return [row for part in content.total.cells for row in part.sort_by("image_id")["confusion"].to_pylist()]


@pytest.mark.parametrize(
    ("p", "corrected"),
    [([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.9, 0.5], [1.0, 1.0]), ([], []), ([0.02, 0.02], [0.04, 0.04])],
)
def test_holm_s_correction(p: list[float], corrected: list[float]) -> None:
    assert paired.holm(p) == pytest.approx(corrected)


def test_a_class_in_few_photographs_is_not_compared() -> None:
    few = paired.compare(run(0.0, images=4), run(0.1, images=4))
    assert few.classes == {}
    assert few.values is not None


def test_runs_of_other_images_truth_classes_or_questions_are_refused() -> None:
    first = run(0.0)
    assert (
        "2 of the scored images, such as i028, are in one run only"
        in paired.compare(first, run(0.1, images=28)).refused
    )
    other = reading(
        table([*range(29), 77], 0.0).set_column(0, "image_id", pa.chunked_array([first.listed["image_id"].chunk(0)]))
    )
    assert "the ground truth of 1 images differs, such as that of i029" in paired.compare(first, other).refused
    renamed = replace(first, card={**first.card, "labels": list("abcdef")})
    assert "different classes" in paired.compare(first, renamed).refused
    questions = replace(first, card={**first.card, "asks": "the class alone"})
    assert "different questions: '' and 'the class alone'" in paired.compare(first, questions).refused
    names = replace(first, listed=first.listed.append_column("vocabulary", pa.array(["other"] * 30)))
    assert "different class names as vocabularies" in paired.compare(first, names).refused
    without = replace(first, total=replace(first.total, cells=()))
    refused = paired.compare(first, without)
    assert "no confusion cells" in refused.refused
    assert refused.values is None
    shared = reading(table(list(range(30)), 0.0), photographs={f"i{k:03}": str(k // 2) for k in range(30)})
    assert "share a photograph" in paired.compare(first, shared).refused


def test_label_files_of_other_contents_are_refused_even_with_the_same_areas() -> None:
    records = table(list(range(30)), 0.0)

    def with_digests(*digests: str) -> Reading:
        digest = pa.array([*digests, *(f"{k}" for k in range(len(digests), 30))])
        return reading(records.append_column("truth_digest", digest))

    assert paired.compare(with_digests("0"), with_digests("")).refused == ""  # not known in an early version
    refused = paired.compare(with_digests("0", "1"), with_digests("0", "x")).refused
    assert refused.startswith("the label files of 1 images, such as")


@pytest.mark.parametrize(
    ("images", "failed", "scored"), [([3, 4], (3, 4), 0), ([3], (), 1)], ids=["all failed", "one image"]
)
def test_runs_with_fewer_than_two_scored_images_are_refused(
    images: list[int], failed: tuple[int, ...], scored: int
) -> None:
    few = reading(test_intervals.rows(images, failed))
    nothing = replace(few, total=replace(few.total, cells=tuple(part.slice(0, 0) for part in few.total.cells)))
    assert f"{scored} scored images with a label map" in paired.compare(few, few).refused
    assert "0 scored images with a label map" in paired.compare(nothing, nothing).refused


def test_vocabularies_are_compared_image_by_image() -> None:
    def named(content: Reading, names: list[str]) -> Reading:
        return replace(content, listed=content.listed.append_column("vocabulary", pa.array(names)))

    long, short = named(run(0.0), ["a", "b"] * 15), named(run(0.0, images=4), ["a"] * 4)
    assert "26 of the scored images, such as i004, are in one run only" in paired.compare(long, short).refused
    refused = paired.compare(long, named(run(0.0), ["b", "a", *["a", "b"] * 14])).refused
    assert "different class names as vocabularies of 2 images, such as i000" in refused
    assert paired.compare(long, long).refused == ""


def test_runs_with_own_words_are_compared_and_the_difference_is_said() -> None:
    words = {"file": "words.txt", "sha256": "0123456789abcdef", "words": 8}
    named = [
        replace(content, listed=content.listed.append_column("vocabulary", pa.array([digest] * 30)))
        for content, digest in ((run(0.0), "a"), (run(0.1), "b"))
    ]
    own = replace(named[1], card={**named[1].card, "words": words})
    assert "different class names" in paired.compare(*named).refused
    there, back = paired.compare(named[0], own), paired.compare(own, named[0])
    assert there.values is not None
    assert there.words == (
        "different vocabularies: the first run has the classes of the benchmark, the second 8 words of words.txt, "
        "sha256 0123456789ab"
    )
    assert back.words.endswith("sha256 0123456789ab, the second the classes of the benchmark")
    assert paired.compare(own, own).words == ""
    mapped = replace(own, card={**own.card, "words": {**words, "mapping": [["lawn", "grass"]]}})
    assert "different vocabularies" in paired.compare(own, mapped).words
    shown = statistics_tables.differences("a", "b", "camvid", there)
    assert "different vocabularies" in str(getattr(shown, "caption", ""))


def test_a_benchmark_of_one_run_only_is_refused_with_the_name_of_the_run(tmp_path: Path) -> None:
    a = test_report.make(tmp_path / "a", [list(range(12))])
    b = test_report.make(tmp_path / "b", [list(range(12))], name="suim")
    compared = comparison.differences(a.uri, b.uri)
    assert {benchmark: of.refused for (_, benchmark), of in compared.items()} == {
        "camvid": f"only {a.uri} has this benchmark: evaluate it in both runs",
        "suim": f"only {b.uri} has this benchmark: evaluate it in both runs",
    }


def test_values_that_only_one_run_has_are_left_out() -> None:
    plain, better = run(0.0), run(0.1)
    groups = {"foreground": list(range(LABELS - 1)), "background": [LABELS - 1]}
    fold = replace(better, card={**better.card, "groups": groups}, inputs={metrics.FOLD: 30})
    expected, other = paired.compare(plain, better), paired.compare(plain, fold)
    assert other == expected, "the values of a fold are in the second run only"
    assert paired.compare(fold, plain).classes is not None
    assert other.values is not None
    assert set(other.values) == set(confusion.headings)


def test_the_numbers_of_a_fold_are_compared() -> None:
    groups = {"foreground": list(range(LABELS - 1)), "background": [LABELS - 1]}
    pair = [replace(of, card={**of.card, "groups": groups}, inputs={metrics.FOLD: 30}) for of in (run(0.0), run(0.1))]
    compared = paired.compare(*pair)
    assert compared.values is not None
    assert set(compared.values) == {*confusion.headings, *episodes.headings}
    assert compared.values["fold_miou"].p < 0.001
    assert compared.classes == paired.compare(run(0.0), run(0.1)).classes


def test_two_runs_without_label_maps_such_as_of_instances_are_refused() -> None:
    plain = test_intervals.rows([0, 1, 2])
    instances = reading(plain.set_column(3, "confusion", pa.nulls(3, confusion.schema)))
    assert "0 scored images with a label map" in paired.compare(instances, instances).refused


def test_the_command_gives_the_reason_for_runs_in_which_every_image_failed(tmp_path: Path) -> None:
    for name in "ab":
        test_report.make(tmp_path / name, [list(range(12))], failed=tuple(range(12)))
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert (done.exit_code, done.exception) == (0, None)
    assert "0 scored images with a label map" in " ".join(done.output.split())


def test_the_command_prints_differences_and_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    test_report.make(tmp_path / "a", [list(range(12))])
    test_report.make(tmp_path / "b", [list(range(11))])
    shown = " ".join(CliRunner().invoke(app, ["compare", a, b]).output.split())  # lines are wrapped
    assert "1 of the scored images, such as i11, are in one run only" in shown
    plain = test_report.cells
    monkeypatch.setattr(test_report, "cells", lambda k: {name: values[:-1] for name, values in plain(k).items()})
    test_report.make(tmp_path / "c", [list(range(12))])
    with pytest.raises(OvssError, match="at least two different runs"):
        comparison.differences(a)
    (refused,) = comparison.differences(a, tmp_path / "c").values()
    assert "ground truth of 12 images differs" in refused.refused
    monkeypatch.setattr(test_report, "cells", plain)
    test_report.make(tmp_path / "d", [list(range(12))])
    done = CliRunner().invoke(app, ["compare", a, str(tmp_path / "d"), "--classes"])
    output = " ".join(done.output.split())  # long titles are wrapped
    assert "in points, paired by image" in output
    assert "after Holm's correction" in output
    assert output.count("+0.00 to +0.00") == len(confusion.headings) + 3
