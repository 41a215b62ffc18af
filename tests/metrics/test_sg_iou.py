"""SG-IoU: the official evaluator's values, a plain loop over the definition, and both denominators of its mean."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion
from ovss_ray.metrics.confusion import Partial
from ovss_ray.metrics.sg_iou import Result
from ovss_ray.structures.relations import Relations

TABLES = {"ade20k_150": (33, 103, 150), "ade20k_847": (356, 592, 846), "pascal_context_459": (142, 304, 456)}
"""Name → pairs of the official table, classes in the truth of the golden, classes in truth or prediction."""


@pytest.mark.parametrize("kind", ["sg", "vanilla"])
@pytest.mark.parametrize("name", TABLES)
def test_the_values_are_those_of_the_official_evaluator(shared: Path, name: str, kind: str) -> None:
    golden = np.load(shared / "parity/scan/golden_sg_iou_seed0.npz")
    table = json.loads((shared / "parity/scan/sg_iou_relations.json").read_text())[name]
    pairs, present, named = TABLES[name]
    matrix = golden[f"{name}/confusion_pred_by_gt"]  # the last row: no class; the last column: ignored pixels
    total = Partial(np.ascontiguousarray(matrix[:, :-1].T))
    fathers = {child: [str(father) for father in of] for child, of in table.items()}
    relations = Relations.of(fathers, [f"class {i}" for i in range(len(total.counts))])
    assert len(relations.pairs) == pairs
    result = Result(total, relations if kind == "sg" else Relations(()))
    np.testing.assert_allclose(result.sg_iou, golden[f"{name}/{kind}/iou"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.sg_acc, golden[f"{name}/{kind}/acc"], rtol=0, atol=1e-9)
    means = result.result()
    summary = [means[key] for key in ("sg_miou_classic", "sg_fwiou", "sg_macc", "sg_pacc")]
    np.testing.assert_allclose(summary, golden[f"{name}/{kind}/summary"], rtol=0, atol=1e-9)
    assert ((total.truth_pixels > 0).sum(), (total.truth_pixels + total.prediction_pixels > 0).sum()) == (
        present,
        named,
    )
    assert means["sg_miou"] == pytest.approx(means["sg_miou_classic"] * named / present, rel=1e-12)
    assert abs(means["sg_miou"] - means["sg_miou_classic"]) > 1, "the golden tells both denominators apart"


def matrix(labels: int, seed: int) -> np.ndarray:
    """Return counts (labels, labels + 1) with absent labels, labels that are predicted only, and NONE."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 1000, (labels, labels + 1)) * (generator.random((labels, labels + 1)) < 0.3)
    counts[::4] = 0
    counts[:, 1] = 0
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_the_values_are_those_of_a_loop_over_the_definition(seed: int) -> None:
    counts = matrix(12, seed)
    generator = np.random.default_rng(seed)
    every = [(child, father) for child in range(12) for father in range(12) if child != father]
    pairs = tuple(sorted(every[i] for i in generator.choice(len(every), 25, replace=False)))
    result = Result(Partial(counts), Relations(pairs))
    for label in range(12):
        truth, predicted = counts[label].sum(), counts[:, label].sum()
        if truth == 0:
            assert np.isnan(result.sg_iou[label])
            continue
        hits = float(counts[label, label])
        for child, father in pairs:
            if child == label and counts[label, father]:
                pure = (counts[label, father] + counts[father, father]) / counts[:, father].sum()
                hits += pure * counts[label, father]
        assert result.sg_iou[label] == pytest.approx(100 * hits / (truth + predicted - counts[label, label]))
        assert result.sg_acc[label] == pytest.approx(100 * hits / truth)
        assert hits <= truth


@pytest.mark.parametrize("seed", range(3))
def test_without_relations_all_values_are_those_of_the_plain_iou(seed: int) -> None:
    total = Partial(matrix(12, seed))
    result = Result(total, Relations(()))
    np.testing.assert_array_equal(result.sg_iou, total.iou)
    np.testing.assert_array_equal(result.sg_acc, total.acc)
    assert result.result() == pytest.approx({f"sg_{key}": total.result()[key] for key in PLAIN}, rel=1e-14)


PLAIN = ("miou", "miou_classic", "fwiou", "macc", "pacc")


def test_a_child_called_by_its_father_s_name_is_credited_by_the_purity_of_the_father() -> None:
    """0 is grass, 1 is plant, 2 is sky. Of 100 pixels called plant, 60 are plant and 30 are grass."""
    counts = np.array([[10, 30, 0, 0], [0, 60, 0, 0], [0, 10, 90, 0]])
    grass, plant, sky = Result(Partial(counts), Relations(((0, 1),))).sg_iou
    assert grass == pytest.approx(100 * (10 + 0.9 * 30) / 40)
    assert (plant, sky) == (60.0, 90.0), "credited pixels stay false positives of the father"


def test_a_father_called_by_its_child_s_name_earns_nothing_unless_the_pair_is_listed_both_ways() -> None:
    total = Partial(np.array([[10, 0, 0], [30, 60, 0]]))
    assert Result(total, Relations(((0, 1),))).sg_iou[1] == total.iou[1]
    assert Result(total, Relations(((0, 1), (1, 0)))).sg_iou[1] > total.iou[1]


def test_pixels_without_a_class_are_misses_as_they_are_for_the_plain_iou() -> None:
    result = Result(Partial(np.array([[10, 10, 20], [0, 10, 0]])), Relations(((0, 1),)))
    assert result.sg_acc[0] == pytest.approx(100 * (10 + 10) / 40)


def test_where_no_pixel_is_counted_no_mean_is_a_number() -> None:
    values = Result(Partial.zero(3), Relations(((0, 1),))).result()
    assert list(values) == [f"sg_{key}" for key in PLAIN]
    assert np.isnan(list(values.values())).all()


def test_counts_of_any_partition_of_the_images_give_the_same_bits_at_847_classes() -> None:
    generator = np.random.default_rng(0)
    images = [
        confusion.Counter(847)(*generator.integers(0, 847, (2, 40, 50)).astype(np.uint16) // (1 + 3 * i))
        for i in range(6)
    ]
    column = pa.array(images, confusion.schema)
    pairs = tuple((child, child + 1) for child in range(0, 846, 2))
    whole = Result(Partial.of(column, 847), Relations(pairs))
    parts = [Partial.of(column.slice(i, 1), 847) for i in (3, 0, 5, 1, 4, 2)]
    summed = Result(sum(parts[1:], parts[0]), Relations(pairs))
    assert summed.result() == whole.result()
    np.testing.assert_array_equal(summed.sg_iou, whole.sg_iou)


def test_a_derived_metric_is_neither_measured_nor_named_in_a_config() -> None:
    (metric,) = (metric for metric in metrics.derived() if metric.name == "sg_iou")
    assert (metric.name, metric.measured_as, metric.needs) == ("sg_iou", "confusion", "relations")
    assert metric.name not in [measured.name for measured in metrics.built_in()]
    with pytest.raises(OvssError, match=r"the metric sg_iou is not measured: .* ovss report RUN --relations FILE"):
        metrics.load_own(("sg_iou",))
