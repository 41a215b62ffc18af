"""What holds of every benchmark: its card, its classes, its items and its label maps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray import registry
from ovss_ray.benchmarks import catalog, class_lists
from ovss_ray.benchmarks.catalog import load
from ovss_ray.dataprep.prepare import do
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE

NAMES = [name for name in catalog.known() if not name.startswith("folder")]
SPLITS = {"ade20k:847": "train", "cwfid": "train", "cwfid:mess": "train"}
"""Where the samples are of another split than the one that is scored"""
SAMPLES = {
    "ade20k:150": 3,
    "ade20k:847": 3,
    "camvid": 101,
    "cityscapes:19": 1,
    **{f"coco20i:{fold}": 2 for fold in range(4)},
    "coco:instances": 3,
    "coco:instances_48_17": 2,
    "coco:object": 2,
    "coco:panoptic": 2,
    "coco:stuff": 2,
    "cwfid": 6,
    "cwfid:mess": 6,
    "lvis": 3,
    **{f"pascal5i:{fold}": 2 for fold in range(4)},
    "pascal_context:459": 2,
    "pascal_context:59": 2,
    "pascal_context:59@ovseg": 2,
    "pascal_context:59-json": 2,
    "pascal_context:60": 2,
    "pascal_context:60-json": 2,
    "sa1b": 2,
    "suim": 4,
    "voc:20": 1,
    "voc:20b": 1,
    "voc:21": 1,
}
COMMA, SEMICOLON, WHOLE = ",", "; ", "\0"
LISTS = {
    "ade20k:150": ("ade150", None, WHOLE, 150, "5b258842b23c"),
    "ade20k:150@catseg": ("ade150", "CAT-Seg(json, prompts)", WHOLE, 150, "4e79e613c9df"),
    "ade20k:150@fcclip": ("ade150", "FC-CLIP(prompt_eng)", COMMA, 150, "1f0ccd7610ca"),
    "ade20k:150@openseg": ("ade150", "OpenSeg(plain)", COMMA, 150, "c3adfdcd9cdf"),
    "ade20k:150@proxyclip": ("ade150", "ProxyCLIP", SEMICOLON, 150, "54de501704dd"),
    "ade20k:847": ("ade847", None, WHOLE, 847, "1ec584d44eb0"),
    "ade20k:847@fcclip": ("ade847", "FC-CLIP(prompt_eng)", COMMA, 847, "ec44e6b69c37"),
    "ade20k:847@openseg": ("ade847", "OpenSeg(plain)", COMMA, 847, "54d257f84fe7"),
    "ade20k:847@proxyclip": ("ade847", "ProxyCLIP", SEMICOLON, 847, "f8b82a627e41"),
    "camvid": ("camvid11", None, WHOLE, 11, "734c852e03cc"),
    "cityscapes:19": ("cityscapes19", None, WHOLE, 19, "7372894f337e"),
    "cityscapes:19@fcclip": ("cityscapes19", "FC-CLIP(prompt_eng)", COMMA, 19, "cd68e5cf1709"),
    "cityscapes:19@proxyclip": ("cityscapes19", "ProxyCLIP", SEMICOLON, 19, "fd246b97d94b"),
    "coco:object": ("coco_object81", None, SEMICOLON, 81, "f642995d02bc"),
    "coco:panoptic": ("coco_panoptic133", None, WHOLE, 133, "2a9687d26b8c"),
    "coco:panoptic@fcclip": ("coco_panoptic133", "FC-CLIP(prompt_eng)", COMMA, 133, "c26c048ee1a8"),
    "coco:panoptic@openseg": ("coco_panoptic133", "OpenSeg(prompt_eng)", COMMA, 133, "161fe88c7d8e"),
    "coco:stuff": ("coco_stuff171", None, WHOLE, 171, "0ae624b3312f"),
    "coco:stuff@fcclip": ("coco_stuff171", "FC-CLIP(prompt_eng)", COMMA, 171, "487df34742e9"),
    "coco:stuff@proxyclip": ("coco_stuff171", "ProxyCLIP", SEMICOLON, 171, "becd6d08455e"),
    "pascal_context:459": ("pc459", None, WHOLE, 459, "25df09b31f30"),
    "pascal_context:459@catseg": ("pc459", "CAT-Seg(json, prompts)", WHOLE, 459, "04da55965ff1"),
    "pascal_context:459@fcclip": ("pc459", "FC-CLIP(prompt_eng)", COMMA, 459, "12516b4fd764"),
    "pascal_context:59": ("pc59", None, WHOLE, 59, "37ad8dd9093d"),
    "pascal_context:59-json": ("pc59", None, WHOLE, 59, "37ad8dd9093d"),
    "pascal_context:59@fcclip": ("pc59", "FC-CLIP(prompt_eng)", COMMA, 59, "2b0bd8f7b1da"),
    "pascal_context:59@mmseg": ("pc59", "mmseg", WHOLE, 59, "a1f576d93f4c"),
    "pascal_context:59@ovseg": ("pc59", "OVSeg", WHOLE, 59, "989365fc8ab2"),
    "pascal_context:60": ("pc60", None, WHOLE, 60, "eb7c005ff074"),
    "pascal_context:60-json": ("pc60", None, WHOLE, 60, "eb7c005ff074"),
    "voc:20": ("voc20", None, WHOLE, 20, "9f22726988fe"),
    "voc:20@catseg": ("voc20", "CAT-Seg(json, prompts)", WHOLE, 20, "e5514fa221bd"),
    "voc:20@ebseg": ("voc20", "EBSeg", COMMA, 20, "5b8edb0337c1"),
    "voc:20@proxyclip": ("voc20", "ProxyCLIP", SEMICOLON, 20, "ad321aed7503"),
    "voc:20b": ("voc20b_evalvocab", None, WHOLE, 59, "2fcd640d024f"),
    "voc:21": ("voc21", None, COMMA, 21, "40b50e9abd6d"),
    "voc:21@fcclip": ("voc21", "FC-CLIP(prompt_eng)", COMMA, 21, "094ae3c1b8a7"),
    "voc:21@mmseg": ("voc21", "mmseg", WHOLE, 21, "fe435aade17a"),
    "voc:21@proxyclip": ("voc21", "ProxyCLIP", SEMICOLON, 21, "0e8452c7dce4"),
}
"""Benchmark → source list, whose variant, what parts the names of a class there, classes, digest written once"""


def listed(shared: Path, source: str, variant: str | None) -> list[str]:
    told: dict[str, Any] = json.loads((shared / f"benchmarks/classes/{source}.json").read_text())
    assert len(told["classes"]) == told["num_classes"]
    return told["classes"] if variant is None else told["variants"][variant]["classes"]


@pytest.mark.parametrize("name", LISTS)
def test_the_classes_are_those_of_the_source_list_in_its_order(shared: Path, name: str) -> None:
    source, variant, mark, count, digest = LISTS[name]
    ours = load(name).vocabulary
    parts = [line.split(mark) for line in listed(shared, source, variant)]
    theirs = [[part.strip() if mark != WHOLE else part for part in line] for line in parts]
    assert [list(names) for names in ours.classes] == theirs
    assert (len(ours), ours.digest) == (count, digest)


def test_every_list_of_names_is_held_against_its_source() -> None:
    elsewhere = {"coco:instances", "coco:instances_48_17", "cwfid", "cwfid:mess", "lvis", "sa1b", "suim"}
    offered = {name for name in NAMES if not name.startswith(("scenes:", "pascal5i:", "coco20i:"))} - elsewhere
    offered |= {f"{name}@{words}" for name in offered for words in class_lists.variants(name)}
    assert offered == set(LISTS)


@pytest.mark.parametrize("name", [name for name in LISTS if name not in NAMES])
def test_other_words_leave_labels_and_files_as_they_are(name: str) -> None:
    found, (base_name, _, words) = load(name), name.partition("@")
    base = load(base_name)
    assert found == replace(base, vocabulary=found.vocabulary, title=f"{base.title}, names of {words}")
    assert found.vocabulary != base.vocabulary


def test_unknown_words_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"list of names for ade20k:150 'catsegg'\. Did you mean 'catseg'"):
        load("ade20k:150@catsegg")
    with pytest.raises(UnknownName, match="unknown benchmark 'ade20k:15@catseg'"):
        load("ade20k:15@catseg")


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_it_is_where_it_is_from_and_what_is_not_counted(name: str) -> None:
    found = load(name)
    card = registry.find("ovss_ray.datasets", name.partition(":")[0], "__doc__")
    assert len(card) > 300
    assert all([found.title, found.domain, found.licence, found.source])
    assert found.counts.get(found.split) or name == "sa1b", "of SA-1B, anybody evaluates another part"
    if not found.drawn:
        assert "Data: http" in card
        assert "Paper" in card
        assert any(word in card for word in ("counted", "ignored", "unlabelled"))
    assert set(found.index) == set(range(len(found.labels)))
    assert len(set(found.labels)) == len(found.labels)
    assert all(name.strip() == name for name in found.labels) or name == "ade20k:150"  # "window " is detectron2's


def test_there_is_a_sample_of_every_benchmark() -> None:
    assert set(SAMPLES) == {name for name in NAMES if not name.startswith("scenes:")}


@pytest.fixture(scope="module")
def prepared(
    root: Path, folds: Path, instances: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Where those lie that are not read as they are sent, and those of which there is no real sample."""
    out = tmp_path_factory.mktemp("prepared")
    made = ("coco:panoptic", "pascal_context:59-json", "pascal_context:60-json")
    for name in made[:2]:
        for step in load(name).prepare(str(root), "val", str(out)):
            assert do(step) == (True, "")
    made_up = {name: folds for name in SAMPLES if name.startswith(("pascal5i:", "coco20i:"))}
    return {**dict.fromkeys(made, out), **made_up, **instances}


@pytest.mark.parametrize("name", SAMPLES)
def test_items_are_sorted_and_unique_and_labels_have_the_size_of_their_photograph(
    root: Path, prepared: dict[str, Path], name: str
) -> None:
    found = load(name)
    items = list(found.items(str(prepared.get(name, root)), SPLITS.get(name, found.split)))
    ids = [item.image_id for item in items]
    assert ids == sorted(set(ids))
    assert len(ids) == SAMPLES[name]
    for item in items[:2]:
        truth = found.truth(item, files.read(item.truth))
        assert truth.dtype == np.uint16
        assert truth.shape == found.image(item, files.read(item.image)).shape[:2]
        assert set(np.unique(truth)) <= {*range(len(found.labels)), IGNORE}
        assert (truth != IGNORE).any()


@pytest.mark.parametrize("name", SAMPLES)
def test_missing_data_are_told_where_they_were_looked_for_and_how_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(OvssError, match=r"data set not found below .*Searched: .*Get it: "):
        load(name).items(str(tmp_path), load(name).split)
