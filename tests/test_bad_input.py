"""Damaged files of every kind: each ends in a valid result or in a message that names the file, and in nothing else."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.config import loading as configs
from ovss_ray.config.run import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.io import images
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs import records
from ovss_ray.structures.columns import IGNORE, column
from tests.paths import ROOT

RGB = np.kron(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
LABELS = np.kron(np.random.default_rng(1).integers(0, 3, (5, 7), np.uint8), np.ones((4, 4), np.uint8))
DESCRIPTION = """\
images: photos/*.jpg
labels: masks/*.png
classes: [soil, [crop, maize], weed]
offset: 1
ignore: [0, 255]
"""
COLOURED = """\
images: photos/*.jpg
labels: masks/*.png
classes: classes.txt
encoding: rgb
colours: {soil: [0, 0, 0], crop: [0, 255, 0], weed: [9, 9, 9]}
title: "a \\u00e4 title"
"""
WORDS = b"soil\nstra\xc3\x9fe\n\xe9\xab\x98\xe9\x80\x9f\nwindow \ncrop, maize\nweed\n"
VALUES = ["-1", "1e999", ".nan", "null", "[]", "{}", "true", "2001-01-01", "!!binary abc", "!!int x", "!!set {a}", "&a"]
VALUES += ["*a", "? [a]", "<<: ", "9" * 30, "9" * 5000, '"\\ud800"', '"\\0"', "0x", "1:2:3", "!!timestamp 9", '"', "- "]


def mutated(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with so many mutations: always the same ones in CI, new ones elsewhere."""
    chosen = settings(
        max_examples=count,
        deadline=timedelta(minutes=1),
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return lambda test: pytest.mark.filterwarnings("ignore")(chosen(test))


@st.composite
def damage(draw: st.DrawFn, seeds: Sequence[bytes], text: bool = False) -> tuple[int, bytes]:
    """One of the valid files, by its number, and what has become of it."""
    number = draw(st.integers(0, len(seeds) - 1))
    data = seeds[number]
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from((bent, cut, spliced, doubled) + (retyped,) * 3 * text))(draw, data, seeds)
    assume(data != seeds[number])
    return number, data


def bent(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    place, put = draw(st.integers(0, len(data))), draw(st.binary(min_size=1, max_size=4))
    return data[:place] + put + data[place + len(put) :]


def cut(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def spliced(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Put a piece of this or another file into it."""
    other = draw(st.sampled_from([*seeds, data]))
    begin, place = draw(st.integers(0, len(other))), draw(st.integers(0, len(data)))
    return data[:place] + other[begin : begin + draw(st.integers(1, 60))] + data[place:]


def doubled(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    place = draw(st.integers(0, len(lines) - 1))
    return b"\n".join([*lines[: place + 1], *lines[place:]])


def retyped(draw: st.DrawFn, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Put another value in the place of a word."""
    words = data.split(b" ")
    words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(VALUES)).encode()
    return b" ".join(words)


def result(read: Callable[[], object], name: str | Path) -> object | None:
    """What a reader makes of a damaged file; None if it refuses it in a message that names it."""
    try:
        return read()
    except OvssError as failure:
        said = str(failure)
    assert str(name) in said, said
    return None


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(sink, kind, **options)
    return sink.getvalue()


def photographs() -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = [saved(RGB, kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000")]
    pictures += [saved(RGB, kind, exif=turned.tobytes()) for kind in ("PNG", "JPEG", "TIFF", "WEBP")]
    pictures += [saved(RGB, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate")]
    pictures += [saved(RGB[..., 0].astype(np.uint16) * 257, "PNG"), saved(np.dstack([RGB, LABELS]), "PNG")]
    return [*pictures, saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), saved(RGB, "JPEG", progressive=True)]


PHOTOGRAPHS = photographs()
LABEL_FILES = [saved(LABELS, kind) for kind in ("PNG", "TIFF", "GIF", "BMP")] + [
    saved(LABELS.astype(np.uint16), "PNG"),
    saved(LABELS.astype(np.uint16), "TIFF"),
    saved(LABELS.astype(np.int32), "TIFF"),
    saved(LABELS > 0, "PNG"),
]


GOOD = {
    "plain.jpg": saved(RGB, "JPEG"),
    "really_a_png.jpg": saved(RGB, "PNG"),
    "grey.jpg": saved(RGB[..., 0], "JPEG"),
    "rgba.png": saved(np.dstack([RGB, LABELS]), "PNG"),
    "cmyk.jpg": saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "deep.png": saved(RGB[..., 0].astype(np.uint16) * 257, "PNG"),
    "turned.png": saved(RGB, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
}
"""Photographs of every kind that is read; `turned` is shown upright, 28 × 20 pixels, as its labels are."""
BAD = {
    "cut_short": ("photos/cut_short.jpg", GOOD["plain.jpg"][:-200], "damaged, truncated"),
    "web_page": ("photos/web_page.jpg", b"<!doctype html><p>404", "it looks like a web page"),
    "too_small": (
        "masks/too_small.png",
        saved(LABELS[:9], "PNG"),
        "the prediction has 20 × 28 pixels and the truth 9 × 28",
    ),
    "no_class": ("masks/no_class.png", saved(LABELS + 9, "PNG"), "have invalid labels such as"),
    "coloured": ("masks/coloured.png", saved(RGB, "PNG"), "this file is RGB"),
    "bit_error": (
        "masks/bit_error.png",
        saved(LABELS, "PNG")[:-20] + b"?" * 8 + saved(LABELS, "PNG")[-12:],
        "checksum",
    ),
}
"""Image → its broken file, what that holds, and what is said of it."""


@pytest.mark.ray
def test_every_fault_costs_its_image_alone_and_is_counted_in_the_exit_status(tmp_path: Path) -> None:
    for name, photo in [*GOOD.items(), *((f"{stem}.jpg", GOOD["plain.jpg"]) for stem in BAD)]:
        put(tmp_path / "photos" / name, photo)
        put(tmp_path / "masks" / f"{Path(name).stem}.png", saved(LABELS.T if "turned" in name else LABELS, "PNG"))
    for file, content, _ in BAD.values():
        put(tmp_path / file, content)
    (tmp_path / "b.yaml").write_text("{images: photos/*, labels: masks/*, classes: [a, b, B]}")
    (tmp_path / "c.yaml").write_text("pools: [{stages: [{use: tests.toys}]}]")
    arguments = ["c.yaml", "--benchmark", "folder:b.yaml", "--data-root", ".", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "ovss_ray", "evaluate", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert f"ovss: {len(BAD)} of {len(GOOD) + len(BAD)} images have no result" in done.stderr
    assert "the name 'b' stands for the classes 1 and 2" in done.stderr
    assert "Traceback" not in done.stderr
    (one,) = json.loads((tmp_path / "run/report.json").read_text())["benchmarks"].values()
    assert one["images"] == {"expected": len(GOOD) + len(BAD), "scored": len(GOOD), "failed": len(BAD)}
    said = {error["image_id"]: error["error"] for error in one["errors"]}
    assert sorted(said) == sorted(BAD)
    for stem, (file, _, words) in BAD.items():
        assert str(tmp_path / file) in said[stem]
        assert words in said[stem]


def put(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


@mutated(150)
@given(damage(PHOTOGRAPHS))
def test_a_photograph_is_decoded_or_refused(damaged: tuple[int, bytes]) -> None:
    number, data = damaged
    found = result(lambda: images.decode(data, "photo.jpg", cap=100_000), "photo.jpg")
    if isinstance(found, np.ndarray):
        assert found.dtype == np.uint8
        assert found.shape[2:] == (3,)
        whole = PHOTOGRAPHS[number]
        if data.startswith(b"\x89PNG") or whole.startswith(data):  # what has checksums, and what was cut short
            assert any(
                np.array_equal(found, images.decode(one, "", upright=up)) for one in PHOTOGRAPHS for up in (0, 1)
            )


@mutated(150)
@given(damage(LABEL_FILES))
def test_a_label_file_is_read_or_refused(tmp_path: Path, damaged: tuple[int, bytes]) -> None:
    data, item = damaged[1], Item("a", "a.jpg", "masks/a.png")
    one = described(tmp_path, DESCRIPTION.replace("offset: 1", "offset: 0").replace("0, 255", "255"))
    truth = result(lambda: one.truth(item, data), "masks/a.png")
    if isinstance(truth, np.ndarray):
        assert truth.dtype == np.uint16
        assert set(np.unique(truth).tolist()) <= {0, 1, 2, IGNORE}
        if data.startswith(b"\x89PNG"):
            assert any(np.array_equal(truth, images.decode_labels(file, "")) for file in LABEL_FILES)


def described(folder: Path, text: str) -> Benchmark:
    (folder / "b.yaml").write_text(text)
    return catalog.load(f"folder:{folder}/b.yaml")


CONFIGS = [file.read_bytes() for file in sorted((ROOT / "configs").glob("*.yaml")) if b"pools:" in file.read_bytes()]


@mutated(120)
@given(damage(CONFIGS, text=True))
def test_a_config_is_read_or_refused(tmp_path: Path, damaged: tuple[int, bytes]) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(damaged[1])
    config = result(lambda: configs.load(file), file)
    if isinstance(config, RunConfig):
        assert configs.validate(configs.parse(configs.dump(config), "dumped"), "dumped") == config


@mutated(120)
@given(damage([DESCRIPTION.encode(), COLOURED.encode()], text=True))
def test_the_description_of_a_folder_is_read_or_refused(tmp_path: Path, damaged: tuple[int, bytes]) -> None:
    (tmp_path / "classes.txt").write_bytes(b"soil\ncrop\nweed\n")
    (tmp_path / "b.yaml").write_bytes(damaged[1])
    one = result(lambda: catalog.load(f"folder:{tmp_path}/b.yaml"), tmp_path / "b.yaml")
    if isinstance(one, Benchmark):
        json.dumps([one.vocabulary.classes, one.rules, one.title]).encode()
        result(lambda: one.items(str(tmp_path), "all"), tmp_path)


@mutated(80)
@given(damage([WORDS, b"cat\r\ndog\r\n", b"\xef\xbb\xbfroad\nsky"]))
def test_a_file_of_class_names_is_read_or_refused(tmp_path: Path, damaged: tuple[int, bytes]) -> None:
    (tmp_path / "classes.txt").write_bytes(damaged[1])
    text = DESCRIPTION.replace("[soil, [crop, maize], weed]", "classes.txt")
    one = result(lambda: described(tmp_path, text), tmp_path / "b.yaml")
    if isinstance(one, Benchmark):
        lines = damaged[1].decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        assert list(one.vocabulary.names) == [line for line in lines if line.strip()]
        assert not any(set(map(ord, line)) & {*range(32), 0x2028, 0xFEFF, 0xFFFD} for line in lines)


@pytest.fixture(scope="module")
def whole_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(f"image {i}", "toy", "0", f"{i}.jpg", f"{i}.png", "", "", 480, 640) for i in range(9)]
    listed = [dict(zip(manifests.SCHEMA.names, row, strict=True)) for row in rows]
    file = tmp_path_factory.mktemp("run") / "manifest.parquet"
    manifests.save(pa.Table.from_pylist(listed, manifests.SCHEMA), str(file))
    return file


@mutated(80)
@given(st.data())
def test_a_manifest_is_never_read_damaged(tmp_path: Path, whole_manifest: Path, data: st.DataObject) -> None:
    file, (_, content) = tmp_path / "damaged.parquet", data.draw(damage([whole_manifest.read_bytes()]))
    file.write_bytes(content)
    found = result(lambda: manifests.load(str(file)), file)
    assert found is None or found == manifests.load(str(whole_manifest))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Part files of one record and of thirty."""
    folder = tmp_path_factory.mktemp("records")
    return [folder / records.append(str(folder), records.table(batch(rows))) for rows in (1, 30)]


def batch(rows: int) -> dict[str, np.ndarray]:
    cells = {"truth": np.arange(9), "prediction": np.arange(9), "pixels": np.arange(9)}
    columns = {"error": "", "benchmark": "toy", "seconds": {"san": 0.5}, "confusion": cells}
    ids = column(f"image {i}" for i in range(rows))
    return {"image_id": ids, **{name: column([value] * rows) for name, value in columns.items()}}


@mutated(80)
@given(st.data())
def test_a_part_of_the_records_is_never_read_damaged(tmp_path: Path, parts: list[Path], data: st.DataObject) -> None:
    number, content = data.draw(damage([part.read_bytes() for part in parts]))
    file = tmp_path / parts[number].name
    file.write_bytes(content)
    assert result(lambda: records.read_part(str(file)), file) is None
    with pytest.raises(OvssError, match="Delete the file and run the same command again"):
        records.missing(pa.table({"image_id": ["image 0"]}), str(tmp_path))
    file.unlink()
