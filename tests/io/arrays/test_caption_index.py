"""The search for captions against the official code's results, in blocks, as float16, and with faiss."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.io.arrays import caption_index
from ovss_ray.io.arrays.caption_index import CaptionIndex


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict, dict[str, np.ndarray]]:
    folder = shared / "parity/vocabulary_free"
    return json.loads((folder / "retrieval.json").read_text()), dict(np.load(folder / "retrieval.npz"))


@pytest.mark.parametrize(("block", "faiss"), [(1 << 26, False), (1 << 12, False), (1 << 26, True)])
def test_captions_and_near_duplicates_are_the_official_ones(
    golden: tuple[dict, dict[str, np.ndarray]], block: int, faiss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_index, "BLOCK", block)
    content, arrays = golden
    queries = arrays["queries"] / np.linalg.norm(arrays["queries"], axis=1, keepdims=True)
    index = CaptionIndex(content["captions"], arrays["database"], faiss)
    for count, every in content["results"].items():
        found = index.retrieve(queries, int(count), float(content["threshold"]))
        assert [[hit.row for hit in hits] for hits in found] == [[one["id"] for one in hits] for hits in every]
        for hits, expected in zip(found, every, strict=True):
            assert [hit.similarity for hit in hits] == pytest.approx([one["similarity"] for one in expected], abs=2e-6)
    raw = index.search(queries, 25)
    assert [[hit.row for hit in hits] for hits in raw] == arrays["raw_top25"].tolist()
    assert index.retrieve(queries[3:4], 10, 0.94) == [index.retrieve(queries, 10, 0.94)[3]], "alone as among others"


def test_an_index_is_computed_once_and_then_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    monkeypatch.setattr(caption_index, "CHUNK", 7)
    calls: list[int] = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return np.array([[len(text), 1.5] for text in texts], np.float32)

    texts = ["a" * (1 + number) for number in range(20)]
    for half in (False, True, False, True):
        vectors = caption_index.cached(texts, "clip", half, embed)
        assert isinstance(vectors, np.memmap)
        assert vectors.dtype == (np.float16 if half else np.float32)
        assert vectors.tolist() == [[number + 1, 1.5] for number in range(20)]
    assert calls == [7, 7, 6] * 2
    caption_index.cached(texts[::-1], "clip", False, embed)
    assert len(calls) == 9, "another order is another index"
    assert not list(tmp_path.rglob("*.part"))


def test_captions_are_read_from_text_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa dog\r\n\n  zwei Bäume \n".encode())
    assert caption_index.read_texts(tmp_path / "a.txt") == ["a dog", "zwei Bäume"]
    pq.write_table(pa.table({"text": ["a dog", "a cat"]}), tmp_path / "a.parquet")
    assert caption_index.read_texts(tmp_path / "a.parquet", "text") == ["a dog", "a cat"]
    with pytest.raises(OvssError, match=r"no column 'texts'.*Did you mean 'text'"):
        caption_index.read_texts(tmp_path / "a.parquet", "texts")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b" \n\n", "no captions found"),
        ("a.txt", b"caf\xe9\n", "not a text file in UTF-8"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_base_that_is_not_readable_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(OvssError, match=f"{name}.*{message}"):
        caption_index.read_texts(tmp_path / name)


def test_embeddings_of_other_captions_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(OvssError, match=r"2 captions must be an array \(2, D\) of float16 or float32, found .*float64"):
        CaptionIndex(["a", "b"], caption_index.read_vectors(tmp_path / "a.npy"))
    with pytest.raises(OvssError, match=r"b\.npy: cannot be read as a NumPy array"):
        caption_index.read_vectors(tmp_path / "b.npy")
