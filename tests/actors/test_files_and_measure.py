"""decode, truth, oracle and measure: from the files of a benchmark to the cells of its confusion matrix."""

import dataclasses
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures.columns import IGNORE, NONE, Batch, column
from ovss_ray.structures.vocabulary import Vocabulary

FIFTY_NINE = (*range(20), *[20] * 39)
"""As VOC-20b: 59 names are asked, the last 39 of which count as background."""


def stages(*names: str) -> dict[str, Stage]:
    benchmarks = catalog.Benchmarks()
    return {name: StageConfig(use=name).build(benchmarks=benchmarks) for name in names}


def manifest(name: str, items: Sequence[Item]) -> Batch:
    columns = {
        "image_id": [item.image_id for item in items],
        "image_uri": [item.image for item in items],
        "truth_uri": [item.truth for item in items],
        "part": [item.part for item in items],
        "benchmark": [name] * len(items),
    }
    return execution.start(len(items), **columns)


def total(batch: Batch, labels: int) -> confusion.Partial:
    assert list(batch["error"]) == [""] * len(batch["error"])
    return confusion.Partial.of(pa.array(list(batch["confusion"]), confusion.schema), labels)


def measured(name: str, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    return stages("measure")["measure"](row(name, truth, prediction=prediction), {})["confusion"][0]


def row(name: str, truth: np.ndarray, part: str = "", **others: np.ndarray) -> Batch:
    """The only image of a batch."""
    given = {"benchmark": name, "part": part, "vocabulary": "", "truth_uri": "street.png", "truth": truth, **others}
    return {key: column([value]) for key, value in given.items()}


@pytest.fixture
def fifty_nine(monkeypatch: pytest.MonkeyPatch) -> str:
    """A benchmark of a user's own module whose classes count as fewer labels."""
    rng = np.random.default_rng(0)
    made = Benchmark(
        title="59 names",
        domain="tests",
        licence="none",
        source="here",
        counts={},
        vocabulary=Vocabulary.of([f"name {i}" for i in range(59)]),
        items=lambda root, split: [],
        truth=lambda item, data: rng.choice([*range(21), IGNORE], (30, 40)).astype(np.uint16),
        index=FIFTY_NINE,
        labels=tuple(f"label {i}" for i in range(21)),
    )
    for name in ("lab", "lab.voc"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["lab.voc"].BENCHMARKS = {"": made}  # type: ignore[attr-defined]
    return "lab.voc"


@pytest.mark.parametrize(
    ("name", "root", "split", "n"),
    [
        ("camvid", "data/real", "val", 12),
        ("ade20k:150", "data/real", "val", 3),
        ("ade20k:847", "data/real", "train", 3),
        ("ade20k:847", "benchmarks/golden/ade847", "train", 3),
    ],
)
def test_the_truth_scores_100_against_itself(shared: Path, name: str, root: str, split: str, n: int) -> None:
    found = catalog.load(name)
    batch = manifest(name, list(found.items(str(shared / root), split))[:n])
    done = total(execution.run(stages("decode", "truth", "oracle", "measure"), batch, {}), len(found.labels))
    assert done.images == n
    assert {done.miou, done.miou_classic, done.fwiou, done.macc, done.pacc, done.image_miou} == {100.0}


def test_the_truth_scores_100_where_many_classes_count_as_one_label(fifty_nine: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"made up by the benchmark")
    batch = manifest(fifty_nine, [Item("a", "", str(tmp_path / "a.png"))])
    height, width = catalog.load(fifty_nine).truth(Item("a", "", ""), b"").shape
    batch["size"] = column([np.array([height, width], np.int32)])
    done = execution.run(stages("truth", "oracle", "measure"), batch, {})
    assert {*total(done, 21).result().values()} == {100.0}
    assert set(np.unique(done["prediction"][0])) == {*range(21), NONE}


def test_the_oracle_names_no_class_where_nothing_is_counted() -> None:
    truth = np.array([[0, IGNORE, 10]], np.uint16)
    batch = row("camvid", truth, size=np.array([1, 3]))
    found = stages("oracle")["oracle"](batch, {})["prediction"][0]
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, NONE, 10]]


def test_labels_of_another_size_than_the_photograph_do_not_score_100() -> None:
    truth = np.zeros((2, 3), np.uint16)
    batch = row("camvid", truth, size=np.array([3, 2]))
    with pytest.raises(OvssError, match=r"size mismatch: .*3 × 2 pixels .* its labels have 2 × 3"):
        stages("oracle")["oracle"](batch, {})


def test_classes_are_counted_as_their_labels(fifty_nine: str) -> None:
    truth, prediction = np.array([[20, 20, 3, 3]], np.uint16), np.array([[20, 58, 3, NONE]], np.uint16)
    cells = measured(fifty_nine, truth, prediction)
    assert cells["truth"].tolist() == [3, 3, 20]
    assert cells["prediction"].tolist() == [3, NONE, 20]
    assert cells["pixels"].tolist() == [1, 1, 2]


def test_a_part_with_words_of_its_own_is_counted_by_them() -> None:
    truth, prediction = np.array([[5, 2, 2, 2, IGNORE]], np.uint16), np.array([[40, 1, 0, NONE, 1]], np.uint16)
    batch = row("pascal5i:0", truth, "bird", prediction=prediction)
    cells = stages("measure")["measure"](batch, {})["confusion"][0]
    assert cells["truth"].tolist() == [2, 2, 2, 5]
    assert cells["prediction"].tolist() == [2, 5, NONE, 5]
    batch = row("pascal5i:0", truth, "bird", prediction=prediction + 1)
    with pytest.raises(
        OvssError, match=r"street\.png: 2 pixels of the prediction have values such as 41; there are 41"
    ):
        stages("measure")["measure"](batch, {})


def test_a_label_that_a_part_is_not_asked_for_is_no_value_of_its_predictions(fifty_nine: str) -> None:
    offered = sys.modules[fifty_nine].BENCHMARKS
    offered[""] = dataclasses.replace(offered[""], parts={"half": (Vocabulary.of(["a", "b"]), (0, 1))})
    truth, prediction = np.array([[0, 1]], np.uint16), np.array([[0, 3]], np.uint16)
    with pytest.raises(OvssError, match="values such as 3; there are 2 classes"):
        stages("measure")["measure"](row(fifty_nine, truth, "half", prediction=prediction), {})


@pytest.mark.parametrize("name", ["camvid", "lab.voc"])
def test_a_class_out_of_range_is_an_error_that_names_file_and_value(fifty_nine: str, name: str) -> None:
    good = np.zeros((1, 2), np.uint16)
    with pytest.raises(OvssError, match=r"street\.png: 1 pixels of the prediction have values such as 59"):
        measured(name, good, np.array([[0, 59]], np.uint16))
    with pytest.raises(OvssError, match=r"street\.png: 2 pixels of the truth have values such as 77"):
        measured(name, np.full((1, 2), 77, np.uint16), good)


def test_a_prediction_of_another_size_is_an_error_that_names_file_and_sizes() -> None:
    with pytest.raises(OvssError, match=r"street\.png: the prediction has 2 × 1 pixels and the truth 1 × 2"):
        measured("camvid", np.zeros((1, 2), np.uint16), np.zeros((2, 1), np.uint16))


def test_photographs_are_decoded_as_their_benchmark_says(shared: Path) -> None:
    items = catalog.load("ade20k:847").items(str(shared / "data/real"), "train")
    done = execution.run(stages("decode"), manifest("ade20k:847", items), {})
    assert [image.shape for image in done["image"]] == [(512, 683, 3), (512, 683, 3), (512, 768, 3)]
    assert [size.tolist() for size in done["size"]] == [[512, 683], [512, 683], [512, 768]]
    assert {(image.dtype.name, size.dtype.name) for image, size in zip(done["image"], done["size"], strict=True)} == {
        ("uint8", "int32")
    }


def test_a_broken_photograph_and_a_missing_label_file_fail_alone_and_name_their_file(
    shared: Path, tmp_path: Path
) -> None:
    items = list(catalog.load("camvid").items(str(shared / "data/real"), "val"))[:3]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    broken = dataclasses.replace(items[0], image=str(tmp_path / "broken.png"))
    missing = dataclasses.replace(items[1], truth=str(tmp_path / "missing.png"))
    batch = manifest("camvid", [broken, missing, items[2]])
    done = execution.run(stages("decode", "truth", "oracle", "measure"), batch, {})
    assert "broken.png" in done["error"][0]
    assert "missing.png" in done["error"][1]
    assert done["error"][2] == ""
    assert done["confusion"][2]["pixels"].sum() > 0


def test_decode_reads_an_image_of_a_folder_benchmark(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("L", (5, 4), 1).save(tmp_path / "a.tif")
    (tmp_path / "b.yaml").write_text("{images: '*.png', labels: '*.tif', classes: [x, y]}")
    name = f"folder:{tmp_path}/b.yaml"
    batch = manifest(name, list(catalog.load(name).items("", "all")))
    done = execution.run(stages("decode", "truth", "oracle", "measure"), batch, {})
    assert done["image"][0][0, 0].tolist() == [1, 2, 3]
    assert total(done, 2).miou == 100.0
