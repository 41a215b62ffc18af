"""PASCAL-5i: episodes, their truth, and the numbers of the official code."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ovss_ray.benchmarks import listing
from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.episodes import episodes, pairs_of
from ovss_ray.benchmarks.listing import Item
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.datasets import pascal5i
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files
from ovss_ray.metrics import confusion
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs import manifest as manifests
from ovss_ray.structures.columns import IGNORE
from tests.label_files import png


@pytest.mark.parametrize("fold", range(4))
def test_classes_and_counts_are_those_of_the_source(shared: Path, fold: int) -> None:
    told = json.loads((shared / "benchmarks/classes/fewshot_folds.json").read_text())["pascal5i"]
    found = load(f"pascal5i:{fold}")
    assert list(found.labels) == [*told["folds"][fold], "background"]
    assert found.counts == {"val": told["val_pairs"][fold]}
    assert found.groups == {"foreground": (0, 1, 2, 3, 4), "background": (5,)}


def test_an_episode_is_asked_in_words_of_its_own(folds: Path) -> None:
    found = load("pascal5i:2")
    assert list(found.parts) == ["diningtable", "dog", "horse", "motorbike", "person"]
    asked, index = found.question("horse")
    assert asked.names[:4] == ("background", "horse", "bag", "bed")
    assert set(asked.names) == {"horse", *load("voc:21").vocabulary.classes[0]}
    assert len(asked) == 41
    assert index == (5, 2, *[5] * 39)
    assert found.vocabulary.names[:6] == (*found.parts, "background")
    assert found.index == (0, 1, 2, 3, 4, *[5] * 40)


def test_an_episode_is_a_photograph_and_a_class(folds: Path) -> None:
    first, second = load("pascal5i:1").items(str(folds), "val")
    labels = folds / "VOCdevkit/VOC2012/SegmentationClassAug"
    assert (first.image_id, first.part, first.truth) == ("2007_000001__06", "bus", str(labels / "2007_000001.png"))
    assert (second.image_id, second.part) == ("2008_000002__10", "cow")
    assert second.image.endswith("JPEGImages/2008_000002.jpg")


def test_the_truth_is_the_class_against_all_else(folds: Path) -> None:
    found = load("pascal5i:1")
    first, second = (found.truth(item, files.read(item.truth)) for item in found.items(str(folds), "val"))
    assert first[0, ::5].tolist() == [5, 5, 0, 5, 5, IGNORE]
    assert second[0, ::5].tolist() == [IGNORE, 5, 4, 5, 5, 5]
    assert first.dtype == np.uint16


def test_an_episode_without_a_pixel_of_its_class_is_not_counted() -> None:
    item = Item("a__06", "a.jpg", "a.png", "bus")
    assert np.unique(load("pascal5i:1").truth(item, png(np.array([[0, 7, 255]], np.uint8)))).tolist() == [IGNORE]
    with pytest.raises(OvssError, match=r"a\.png: 1 pixels have invalid labels such as 21; allowed: 0 to 20, 255"):
        load("pascal5i:1").truth(item, png(np.array([[6, 21]], np.uint8)))


@pytest.mark.parametrize("line", ["2007_000001__06", "2007_000001", "2007_000001__x", "__01"])
def test_a_line_that_is_no_episode_of_the_fold_is_named(line: str) -> None:
    with pytest.raises(OvssError, match=rf"fold0\.txt: invalid episode '{line}'.*classes 1 to 5\. "):
        pairs_of(["2007_000033__01", line], "fold0.txt", pascal5i.numbers(0))


def test_an_episode_counts_once_and_one_without_files_is_a_remark(folds: Path) -> None:
    folders = [str(folds / "VOCdevkit/VOC2012" / name) for name in ("JPEGImages", "SegmentationClassAug")]
    pairs = [("2008_000002", 5), ("2009_000003", 1), ("2007_000001", 2), ("2008_000002", 5), ("2007_000001", 1)]
    made = episodes(pairs, load("pascal5i:0").labels, pascal5i.numbers(0), *folders)
    assert [item.image_id for item in made] == ["2007_000001__01", "2007_000001__02", "2008_000002__05"]
    assert [item.part for item in made] == ["aeroplane", "bicycle", "bottle"]
    (remark,) = listing.faults(made)
    assert remark.what.startswith("1 photographs of the fold lack their file")
    assert remark.what.endswith("such as 2009_000003")


@pytest.mark.parametrize(
    ("base", "labels", "lists"),
    [
        ("VOC2012", "SegmentationClassAug", "splits"),
        (".", "SegmentationClass", "hsnet/data/splits"),
        ("VOCdevkit/VOC2012", "SegmentationClass", "dataset/splits"),
    ],
)
def test_other_places_of_data_and_lists_are_found(tmp_path: Path, base: str, labels: str, lists: str) -> None:
    for folder in (f"{base}/JPEGImages", f"{base}/{labels}", f"{lists}/pascal/val"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / base / "JPEGImages/a.jpg").touch()
    (tmp_path / base / labels / "a.png").touch()
    (tmp_path / lists / "pascal/val/fold3.txt").write_text("a__20")
    assert [item.image_id for item in load("pascal5i:3").items(str(tmp_path), "val")] == ["a__20"]


def test_missing_lists_are_told_where_to_get(folds: Path, tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit").symlink_to(folds / "VOCdevkit")
    with pytest.raises(OvssError, match=r"splits/pascal/val/fold0\.txt.*Get it: .*github\.com/juhongm999/hsnet"):
        load("pascal5i:0").items(str(tmp_path), "val")
    with pytest.raises(UnknownName, match="unknown split 'train'"):
        load("pascal5i:0").items(str(folds), "train")


@pytest.mark.parametrize(
    ("name", "golden"), [("pascal5i:1", "metric_pascal_fold1"), ("coco20i:2", "metric_coco_fold2")]
)
def test_numbers_are_those_of_the_official_code(shared: Path, tmp_path: Path, name: str, golden: str) -> None:
    """Forty random episodes, some without a pixel of their class, from files to numbers: Fusioner's own evaluation."""
    with np.load(shared / f"parity/fusioner/{golden}.npz") as stored:
        told = dict(stored)
    found, total = load(name), scored(name, told, tmp_path)
    first = 3 if name.startswith("coco") else 6
    step = 4 if name.startswith("coco") else 1
    seen = total.truth_pixels[:-1] > 0
    assert (first + step * np.flatnonzero(seen)).tolist() == told["evaluated_classes"].tolist()
    official = 100 * told["iou"][1, first::step][: len(seen)]
    assert total.iou[:-1][seen] == pytest.approx(official[seen], abs=1e-4)
    assert total.iou[:-1][seen].mean() == pytest.approx(100 * told["miou"], abs=1e-4)
    both = [total.pooled_iou(labels) for labels in found.groups.values()]
    assert np.mean(both) == pytest.approx(100 * told["fb_iou"], abs=1e-4)
    assert total.images < len(told["episodes"]), "some episodes have no pixel of their class"


def scored(name: str, told: dict[str, np.ndarray], folder: Path) -> confusion.Partial:
    """Write episodes as files, and score predictions that lie in files."""
    found, items = load(name), []
    numbers = [number for number, *_ in told["episodes"].tolist()]
    part = dict(zip(found.truth.args[0].values(), found.parts, strict=True))
    for i, number in enumerate(numbers):
        one = f"e{i:02}__{number:02}"
        Image.fromarray(told[f"label_{i:02}"]).save(folder / f"{one}.label.png")
        Image.new("RGB", told[f"label_{i:02}"].shape[::-1]).save(folder / f"{one}.jpg")
        (folder / "predictions").mkdir(exist_ok=True)
        Image.fromarray(told[f"pred_{i:02}"]).save(folder / f"predictions/{one}.png")
        items.append(Item(one, str(folder / f"{one}.jpg"), str(folder / f"{one}.label.png"), part[number]))
    ours = replace(found, items=lambda root, split: items, counts={})
    listed = manifests.build(name, ours, "", Selection("val"))
    assert len(listed["vocabulary"].unique()) == len(set(numbers))
    options = {"predictions": {"path": str(folder / "predictions")}}
    stages = {
        use: StageConfig(use=use, options=options.get(use, {})).build(benchmarks={name: ours})
        for use in ("decode", "predictions", "truth", "measure")
    }
    batch = execution.start(len(items), **listed.drop_columns(["height", "width"]).to_pydict())
    vocabularies = {one.digest: one for one, _ in found.parts.values()}
    done = execution.run(stages, batch, vocabularies)
    assert set(done["error"]) == {""}
    return confusion.Partial.of(pa.array(list(done["confusion"]), confusion.schema), len(found.labels))
