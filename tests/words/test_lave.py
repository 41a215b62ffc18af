"""LAVE: replies of a language model, and label maps, as in the official code."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.words import lave


@pytest.mark.parametrize("most", [3, 0, 1])
def test_replies_are_parsed_as_by_the_official_code(shared: Path, most: int) -> None:
    golden = json.loads((shared / "parity/vocabulary_free/lave.json").read_text())
    official = golden["mapping_by_max_parse_len"][str(most)]
    mapped = lave.mapping(golden["replies"], golden["classes"], most)
    if not most:  # four answers: the official code takes the first of a hash table, here it is the first of the reply
        assert official.pop("kitten") in golden["replies"]["kitten"]
        assert mapped.pop("kitten") == "cat"
    assert mapped == official


def test_label_maps_are_renumbered_as_by_the_official_code(shared: Path) -> None:
    golden = json.loads((shared / "parity/vocabulary_free/lave.json").read_text())
    mapped = lave.mapping(golden["replies"], golden["classes"])
    labels = lave.updated(np.array(golden["prediction"]), list(golden["replies"]), mapped, golden["classes"])
    assert labels.tolist() == golden["updated"]
