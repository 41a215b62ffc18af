"""Tables of masked regions with captions."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovss_ray.errors import OvssError
from ovss_ray.training.pairs import Pairs


def write_pairs(folder: Path, kind: str, captions: list[str]) -> Path:
    """A table with an image and a mask for each caption; image i is grey i, and has i + 1 pixels in its mask."""
    rows = []
    for i, caption in enumerate(captions):
        Image.new("RGB", (70, 50), (i, i, i)).save(folder / f"{i}.png")
        mask = np.zeros((50, 70), np.uint8)
        mask[10, : i + 1] = 255
        Image.fromarray(mask).save(folder / f"{i}_mask.png")
        rows.append({"image": f"{i}.png", "mask": f"{i}_mask.png", "caption": caption})
    return write(folder, kind, rows)


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    table = folder / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return table


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_each_format_gives_the_same_pairs(kind: str, tmp_path: Path) -> None:
    captions = ["a photo of a dog, asleep.", "42", "null"]
    pairs = Pairs(str(write_pairs(tmp_path, kind, captions)), None, seed=3)
    for epoch in range(2):
        rows = pairs.batch(epoch, 3)
        assert {caption: int(image.max()) for image, _, caption in rows} == {text: i for i, text in enumerate(captions)}
        assert all(mask.sum() == image.max() + 1 and mask.shape == (50, 70) for image, mask, _ in rows)
        assert [caption for _, _, caption in rows] == [caption for _, _, caption in pairs.batch(epoch, 3)]


def test_rows_are_shuffled_anew_in_each_epoch_and_differently_for_each_seed(tmp_path: Path) -> None:
    table = str(write_pairs(tmp_path, "csv", [f"photo {i}" for i in range(12)]))
    orders = {tuple(c for _, _, c in Pairs(table, None, seed).batch(epoch, 12)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_paths_are_relative_to_the_root_if_there_is_one(tmp_path: Path) -> None:
    table = write_pairs(tmp_path, "csv", ["a"])
    (tmp_path / "else").mkdir()
    moved = table.rename(tmp_path / "else/pairs.csv")
    assert Pairs(str(moved), str(tmp_path), 0).batch(0, 1)[0][2] == "a"
    with pytest.raises(OvssError, match="cannot be read"):
        Pairs(str(moved), None, 0).batch(0, 1)


def test_faults_of_a_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"missing columns \['mask'\]; found \['image', 'caption'\]"):
        Pairs(str(write(tmp_path, "csv", [{"image": "a", "caption": "b"}])), None, 0)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(OvssError, match=r"cannot be read as a table.*Use \.csv, \.jsonl or \.parquet"):
        Pairs(str(tmp_path / "broken.parquet"), None, 0)
    table = write_pairs(tmp_path, "csv", ["a"])
    Image.new("L", (70, 50)).save(tmp_path / "0_mask.png")
    with pytest.raises(OvssError, match="and 0 nonzero pixels"):
        Pairs(str(table), None, 0).batch(0, 1)
