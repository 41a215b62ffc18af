"""Own data in tables: Parquet and Arrow files with a column of images and one of label maps."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files import cells
from ovss_ray.runs import manifest

ROWS = 7
EMBEDDED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""Images in data sets of Hugging Face."""


def picture(seed: int, *shape: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 2, shape, np.uint8)).save(file, "PNG")
    return file.getvalue()


PHOTOS, MASKS = ([picture(k, 8 + k % 2, 9, *colours) for k in range(ROWS)] for colours in ((3,), ()))


def table(embedded: bool = True, **columns: Any) -> pa.Table:
    kind = EMBEDDED if embedded else pa.large_binary()
    wrapped = [[{"bytes": data, "path": None} if embedded else data for data in side] for side in (PHOTOS, MASKS)]
    made = {"image": pa.array(wrapped[0], kind), "a/b label": pa.array(wrapped[1], kind), **columns}
    return pa.table({"split": ["val"] * ROWS, **made})


def save(path: Path, content: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(content, path, row_group_size=3)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:  # as `save_to_disk`
        writer.write_table(content, max_chunksize=3)


def build(folder: Path, description: str, root: str = "") -> list[dict[str, Any]]:
    text = f"images: image\nlabels: a/b label\nclasses: [dark, bright]\n{description}\n"
    (folder / "own.yaml").write_text(text)
    benchmark = catalog.load(f"folder:{folder}/own.yaml")
    return manifest.build("own", benchmark, root or str(folder), Selection.of(benchmark)).to_pylist()


@pytest.mark.parametrize("name", ["val-0.parquet", "saved/data-00000-of-00001.arrow", "memory"])
@pytest.mark.parametrize("embedded", [True, False])
def test_images_in_a_table_are_read_row_by_row(tmp_path: Path, name: str, embedded: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(cells, "ROOM", 1)  # one row group at a time
    ids = [f"room {k}/view" for k in range(ROWS)]
    save(tmp_path / ("x.parquet" if name == "memory" else name), table(embedded, key=pa.array(ids)))
    if name == "memory":
        files.write(f"memory://tables{embedded}/x.parquet", (tmp_path / "x.parquet").read_bytes())
        (tmp_path / "x.parquet").unlink()
    pattern = {"val-0.parquet": "val-*.parquet", "memory": f"memory://tables{embedded}"}.get(name, "saved")
    rows = build(tmp_path, f"table: {pattern}\nids: key")
    assert sorted(row["image_id"] for row in rows) == ids
    for row in rows:
        k = ids.index(row["image_id"])
        assert files.read(row["image_uri"]) == PHOTOS[k]
        assert files.read(row["truth_uri"]) == MASKS[k]
        assert (row["height"], row["width"]) == (8 + k % 2, 9)
        assert files.exists(row["truth_uri"])
        assert files.stamp(row["image_uri"]) == row["image_stamp"]


def test_without_ids_rows_are_numbered_through_all_tables(tmp_path: Path) -> None:
    for part in range(2):
        save(tmp_path / f"data/val-{part}.parquet", table())
    rows = build(tmp_path, "table: val-*.parquet", str(tmp_path / "data"))
    assert sorted(row["image_id"] for row in rows) == [f"{k:09}" for k in range(2 * ROWS)]
    last = max(rows, key=lambda row: row["image_id"])
    assert last["image_uri"] == f"{tmp_path}/data/val-1.parquet@2.0/image"
    assert last["truth_uri"] == f"{tmp_path}/data/val-1.parquet@2.0/a%2Fb%20label"


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("table: x.parquet\nids: kee", r"ids: no column 'kee'\. The columns of this table are .*Did you mean 'key'"),
        ("table: x.parquet\nids: image", "ids: column 'image' is of type struct.*Expected text or integers"),
        ("table: x.parquet\nids: split", "image ids occur more than once"),
        ("table: x.parquet\nids: key", r"ids: .* '\.\./k0', which cannot be the name of a file"),
        (
            "table: none.parquet",
            r"no file fits `table: none\.parquet`\. Expected files that end in \.parquet or \.arrow",
        ),
        ("table: cut.parquet", r"cut\.parquet: cannot be read as Parquet; it is missing, truncated or damaged"),
        ("table: cut.arrow", r"cut\.arrow: cannot be read as Arrow; it is missing, truncated or damaged"),
        ("table: plain.parquet", r"labels: column 'a/b label' is of type int64\. Expected the bytes of image files"),
        ("table: x.parquet\nimage_suffix: a", r"image_suffix, .* do not apply to a `table`\. Remove these keys"),
        ("ids: key", "`ids` names a column of a `table`"),
    ],
)
def test_a_wrong_table_is_reported_in_one_line(tmp_path: Path, description: str, message: str) -> None:
    save(tmp_path / "x.parquet", table(key=pa.array([f"../k{k}" for k in range(ROWS)])))
    save(tmp_path / "x.arrow", table())
    save(tmp_path / "plain.parquet", table(**{"a/b label": pa.array(range(ROWS))}))
    for kind in ("parquet", "arrow"):
        (tmp_path / f"cut.{kind}").write_bytes((tmp_path / f"x.{kind}").read_bytes()[:200])
    with pytest.raises(OvssError, match=message) as failure:
        build(tmp_path, description)
    assert "\n" not in str(failure.value)


def test_an_empty_cell_costs_its_own_image(tmp_path: Path) -> None:
    empty = [{"bytes": data if k else None, "path": "elsewhere.png"} for k, data in enumerate(PHOTOS)]
    save(tmp_path / "x.parquet", table(image=pa.array(empty, EMBEDDED)))
    first, *others = build(tmp_path, "table: x.parquet")
    assert (first["image_id"], first["height"]) == ("000000000", 0)
    with pytest.raises(OvssError, match=r"x\.parquet@0\.0/image: the cell has no bytes of an image"):
        files.read(first["image_uri"])
    assert all(row["height"] for row in others)
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(OvssError, match=r"x\.parquet: cannot be read as Parquet; it is missing"):
        files.read(first["image_uri"])
    assert files.stamp(first["image_uri"]) == "absent"
