"""COCO-20i: the folds of COCO, whose lists come as pickles."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.episodes import fold_list
from ovss_ray.benchmarks.listing import Item
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.datasets import coco20i
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.runs import manifest as manifests
from ovss_ray.structures.columns import IGNORE
from tests.label_files import png


@pytest.mark.parametrize("fold", range(4))
def test_classes_and_counts_are_those_of_the_source(shared: Path, fold: int) -> None:
    told = json.loads((shared / "benchmarks/classes/fewshot_folds.json").read_text())["coco20i"]
    found = load(f"coco20i:{fold}")
    binary = found.for_binary()
    assert list(binary.vocabulary.names) == ["background", *told["folds"][fold]]
    assert [binary.question(label)[0].names[1] for label in found.labels[:-1]] == told["folds"][fold]
    assert [binary.question(label)[1] for label in found.labels[:-1]] == [(20, label) for label in range(20)]
    assert found.counts == {"val": told["val_pairs"][fold]}
    assert found.labels[:-1] == load("coco:object").labels[1:][fold::4]
    assert found.groups == {"foreground": tuple(range(20)), "background": (20,)}


def test_only_a_binary_method_gets_the_names_of_the_official_code() -> None:
    benchmark = load("coco20i:1")
    assert "traffic light" in benchmark.labels
    assert benchmark.labels == benchmark.for_binary().labels
    assert benchmark.question("traffic light")[0].names[1] == "traffic light"
    assert benchmark.for_binary().question("traffic light")[0].names == ("background", "trafficlight")


def test_a_word_that_is_the_class_is_no_word_for_background() -> None:
    found = load("coco20i:3")
    bed, index = found.question("bed")
    assert sorted(bed.names) == sorted(load("coco:object").vocabulary.classes[0])
    assert bed.names[:3] == ("sky", "bed", "wall")
    assert index == (20, found.labels.index("bed"), *[20] * 15)
    assert len(found.question("cake")[0]) == 18
    assert all(not one.repeated() for one, _ in found.parts.values())
    assert not found.vocabulary.repeated()


def test_episodes_and_their_truth(folds: Path) -> None:
    found = load("coco20i:0")
    first, second = found.items(str(folds), "val")
    assert (first.image_id, first.part) == ("COCO_val2014_000000000042__01", "person")
    assert (second.image_id, second.part) == ("COCO_val2014_000000000074__77", "scissors")
    one, other = (found.truth(item, files.read(item.truth))[0, ::5].tolist() for item in (first, second))
    assert one == [20, 0, 20, 20, 20]
    assert other == [19, 20, 20, 20, 20]


def test_255_is_not_counted_and_81_is_no_class() -> None:
    item = Item("x", "x.jpg", "x.png", "person")
    truth = load("coco20i:0").truth(item, png(np.array([[1, 80, 0, 255]], np.uint8)))
    assert truth.tolist() == [[0, 20, 20, IGNORE]]
    with pytest.raises(OvssError, match="labels such as 81; allowed: 0 to 80, 255"):
        load("coco20i:0").truth(item, png(np.array([[1, 81]], np.uint8)))


def pairs(told: Any, fold: int = 2) -> list[tuple[str, int]]:
    return coco20i._pairs(pickle.dumps(told), "fold2.pkl", coco20i.numbers(fold))


def test_the_first_thousand_are_sorted_by_photograph_then_class(tmp_path: Path) -> None:
    """As Fusioner sorts them, so that --limit takes the same ones."""
    stems = [f"COCO_val2014_{number:012}" for number in (139, 42, 74, 9000)]
    told = {number: [f"val2014/{stem}.jpg" for stem in stems[number // 40 :]] for number in (78, 2, 6, 10)}
    for name, ending in (("val2014", "jpg"), ("annotations/val2014", "png")):
        (tmp_path / name).mkdir(parents=True)
        for stem in stems:
            (tmp_path / name / f"{stem}.{ending}").touch()
    (tmp_path / "splits/coco/val").mkdir(parents=True)
    (tmp_path / "splits/coco/val/fold2.pkl").write_bytes(pickle.dumps(told))
    taken = manifests.build("coco20i:2", load("coco20i:2"), str(tmp_path), Selection("val", limit=7))
    official = sorted({(name, number) for number, names in told.items() for name in names})[:7]
    ids = sorted(f"{name.removeprefix('val2014/')[:-4]}__{number + 1:02}" for name, number in official)
    assert sorted(taken["image_id"].to_pylist()) == ids


def test_all_that_is_listed_is_one_pair_each() -> None:
    told = {**{number: [] for number in range(80)}, 2: ["val2014/a.jpg", "val2014/b.jpg"], 78: ["val2014/a.jpg"]}
    assert pairs(told) == [("a", 3), ("b", 3), ("a", 79)]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({3: ["val2014/a.jpg"]}, "photographs are listed under the key 3. The keys of this list must be"),
        ({"2": ["val2014/a.jpg"]}, "photographs are listed under the key '2'"),
        (["val2014/a.jpg"], "expected one list of photographs per class"),
        ({2: "val2014/a.jpg"}, "expected one list"),
        ({2: [["val2014/a.jpg"]]}, "the key 2 contains a value of type list in place of a photograph's name"),
    ],
)
def test_a_list_of_another_kind_is_an_error_that_names_it(told: Any, message: str) -> None:
    with pytest.raises(OvssError, match=rf"fold2\.pkl: .*{message}.*Get it: "):
        pairs(told)


def test_a_list_that_would_run_a_program_is_refused(folds: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "boom"),)

    (tmp_path / "COCO2014").symlink_to(folds / "COCO2014")
    (tmp_path / "data/splits/coco/val").mkdir(parents=True)
    (tmp_path / "data/splits/coco/val/fold0.pkl").write_bytes(pickle.dumps({0: ["val2014/a.jpg", Bomb()]}))
    with pytest.raises(OvssError, match=r"fold0\.pkl: .*could run code"):
        load("coco20i:0").items(str(tmp_path), "val")
    assert not (tmp_path / "boom").exists()


def test_the_lists_of_both_lie_side_by_side(folds: Path) -> None:
    assert fold_list(str(folds), "coco/val/fold1.pkl") == str(folds / "data/splits/coco/val/fold1.pkl")
