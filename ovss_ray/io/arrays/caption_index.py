"""Exact search for the captions whose embeddings are most similar to a query, as in CaSED.

Source: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, arXiv 2306.00917, §3.
Dimensions: N captions, D features, Q queries.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from ovss_ray.errors import OvssError, nearest
from ovss_ray.io import files
from ovss_ray.io.files.cache import cache_folder

BLOCK = 1 << 26
"""Maximum size, in bytes, of a block of embeddings in float32.

The similarities of all queries to one block of embeddings also take at most BLOCK bytes."""
SURPLUS = 32
"""Number of additional candidates of a search, to make up for the rounding of similarities in float32.

A search for `count` captions selects 2 · count + SURPLUS candidates by their similarities in float32. Then the search
ranks the candidates by their similarities in float64."""
CHUNK = 8192
"""Maximum number of captions that are embedded at once"""
Embed = Callable[[Sequence[str]], np.ndarray]
"""Function: n texts → their embeddings (n, D) float32"""


class Hit(NamedTuple):
    """A caption that a search returns."""

    row: int
    """row of the caption in the index"""
    similarity: float
    """inner product of the query with the stored embedding"""


def read_texts(path: str | Path, column: str = "caption") -> list[str]:
    """Return the captions of a text file or of a column of a Parquet file (`.parquet`).

    A text file has one caption per line. Empty lines are skipped. Raises OvssError if the file or column cannot be
    read, or has no captions. Also raises OvssError if a row of the column has no text.
    """
    if str(path).endswith(".parquet"):
        texts = _parquet(path, column)
    else:
        try:
            texts = [line.strip() for line in files.read(path).decode("utf-8-sig").splitlines()]
        except UnicodeDecodeError as failure:
            raise OvssError(f"{path}: not a text file in UTF-8 ({failure}). Save it as UTF-8 or Parquet") from failure
        texts = [text for text in texts if text]
    if not texts:
        raise OvssError(f"{path}: no captions found. Write one caption per line")
    return texts


def _parquet(path: str | Path, column: str) -> list[str]:
    """Return the texts of a column, one per row. Raises OvssError if a row has no text."""
    try:
        with files.opened(path) as file, pq.ParquetFile(file) as table:
            if column not in table.schema_arrow.names:
                names = table.schema_arrow.names
                offer = nearest(column, names)
                raise OvssError(
                    f"{path}: no column {column!r}. The columns of this file are {names}.{offer} Set the option "
                    "`column` to the column of the captions"
                )
            texts = table.read([column])[column].to_pylist()
    except (OSError, pa.ArrowException) as failure:
        raise OvssError(f"{path}: cannot be read as Parquet: {failure}") from failure
    # no row can be skipped: row i of a file of embeddings belongs to row i of the column
    if wrong := [row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]:
        raise OvssError(
            f"{path}: column {column!r} has no text in row {wrong[0]} (counted from 0), found {texts[wrong[0]]!r}. "
            "Remove this row. If the option `vectors` names a file of embeddings, remove the same row from that file"
        )
    return texts


def digest(texts: Sequence[str]) -> str:
    """Return the SHA-256 of an ordered list of texts, in hex."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


class CaptionIndex:
    """Captions and their embeddings, searched by exact inner product.

    `vectors` are the embeddings (N, D), float16 or float32. If `faiss` is True, the library faiss searches a copy of
    the embeddings in float32. The results with and without faiss are the same up to rounding.
    """

    def __init__(self, texts: Sequence[str], vectors: np.ndarray, faiss: bool = False) -> None:
        if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32) or len(vectors) != len(texts):
            raise OvssError(
                f"the embeddings of {len(texts)} captions must be an array ({len(texts)}, D) of float16 or float32, "
                f"found shape {vectors.shape} and dtype {vectors.dtype}. Compute them again from the same captions"
            )
        self.texts, self.vectors = texts, vectors
        self._faiss = _faiss_index(vectors) if faiss else None

    def __len__(self) -> int:
        return len(self.texts)

    def search(self, queries: np.ndarray, count: int) -> list[list[Hit]]:
        """Return the `count` captions that are most similar to each query, in descending order of similarity.

        `queries` are (Q, D) float32. Captions of equal similarity are in the order of their rows in the index.
        """
        most = min(len(self), 2 * count + SURPLUS)
        if self._faiss is None:
            candidates = self._candidates(queries, most)
        else:
            candidates = self._faiss.search(np.ascontiguousarray(queries, np.float32), most)[1]
        # the rounding in float32 may depend on the other queries: rank each query's candidates again in float64
        return [self._ranked(query, rows, count) for query, rows in zip(queries, candidates, strict=True)]

    def retrieve(self, queries: np.ndarray, count: int, threshold: float) -> list[list[Hit]]:
        """Return the results of `search` without near duplicates, 1 to `count` captions per query.

        `queries` are (Q, D) float32. `threshold` is a cosine (see `distinct`).
        """
        every = self.search(queries, count)
        return [[hits[at] for at in distinct(self.rows(hits), threshold)] for hits in every]

    def rows(self, hits: Sequence[Hit]) -> np.ndarray:
        """Return the stored embeddings of captions, (n, D) float32."""
        return self.vectors[[hit.row for hit in hits]].astype(np.float32)

    def _candidates(self, queries: np.ndarray, most: int) -> np.ndarray:
        """Return the row numbers of the `most` captions that are most similar to each query, in arbitrary order.

        The result is (Q, `most`) int64.
        """
        values = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        step = max(1, BLOCK // (4 * max(self.vectors.shape[1], len(queries))))
        for begin in range(0, len(self), step):
            block = np.asarray(self.vectors[begin : begin + step], np.float32)
            values = np.concatenate([values, queries @ block.T], 1)
            numbers = np.arange(begin, begin + len(block))
            rows = np.concatenate([rows, np.broadcast_to(numbers, (len(queries), len(block)))], 1)
            if values.shape[1] > most:
                best = np.argpartition(-values, most - 1, 1)[:, :most]
                values, rows = np.take_along_axis(values, best, 1), np.take_along_axis(rows, best, 1)
        return rows

    def _ranked(self, query: np.ndarray, rows: np.ndarray, count: int) -> list[Hit]:
        rows = np.sort(rows)
        similarities = (self.vectors[rows].astype(np.float64) * query.astype(np.float64)).sum(1)
        order = np.argsort(-similarities, kind="stable")[:count]
        return [Hit(int(rows[at]), float(similarities[at])) for at in order]


def distinct(vectors: np.ndarray, threshold: float) -> list[int]:
    """Remove near duplicates from embeddings (n, D). Return the ascending indices of the remaining embeddings.

    Two embeddings are linked if their cosine is above `threshold`. Embeddings that are joined by a chain of links form
    a group. Only the first embedding of each group remains.
    """
    from scipy.sparse import csgraph  # takes tenths of a second to import

    exact = vectors.astype(np.float64)
    unit = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    _, components = csgraph.connected_components(unit @ unit.T > threshold, directed=False)
    return sorted(np.unique(components, return_index=True)[1].tolist())


def cached(texts: Sequence[str], key: str, half: bool, embed: Embed) -> np.ndarray:
    """Return the embeddings (N, D) of captions, memory-mapped from a file of the cache.

    If the file does not exist, `embed` computes the embeddings. `key` identifies the encoder. The dtype is float16 if
    `half` is True, else float32. Raises OvssError if the file cannot be read or written.
    """
    file = cache_folder() / "captions" / f"{digest(texts)[:24]}-{key}-{'float16' if half else 'float32'}.npy"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                write(file, _chunks(texts, embed), len(texts), half)
        return np.load(file, mmap_mode="r")
    except OSError as failure:
        raise OvssError(
            f"{file}: cannot write or read the index of captions: {failure}. Set OVSS_CACHE to a writable folder"
        ) from failure


def _chunks(texts: Sequence[str], embed: Embed) -> Iterator[np.ndarray]:
    return (embed(texts[begin : begin + CHUNK]) for begin in range(0, len(texts), CHUNK))


def write(file: Path, parts: Iterator[np.ndarray], count: int, half: bool) -> None:
    """Write the embeddings of `count` captions to an .npy file. A failure leaves no partial file.

    `parts` yields the embeddings in consecutive arrays (n, D). The dtype in the file is float16 if `half` is True, else
    float32. Raises OSError if the file cannot be written.
    """
    aside = file.with_name(f"{uuid.uuid4().hex}.part")
    try:
        first = next(parts)
        array = np.lib.format.open_memmap(aside, "w+", np.float16 if half else np.float32, (count, first.shape[1]))
        array[: len(first)] = first
        at = len(first)
        for part in parts:
            array[at : at + len(part)] = part
            at += len(part)
        array.flush()
        del array
        aside.rename(file)
    finally:
        aside.unlink(missing_ok=True)


def read_vectors(path: str | Path) -> np.ndarray:
    """Return the embeddings (N, D) of an .npy file, memory-mapped. Raises OvssError if the file cannot be read."""
    try:
        return np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as failure:
        raise OvssError(f"{path}: cannot be read as a NumPy array: {failure}. Write it with numpy.save") from failure


def _faiss_index(vectors: np.ndarray) -> Any:
    try:
        import faiss
    except ImportError as failure:
        raise OvssError(
            "the search with faiss needs the package faiss-cpu. To install it, run `pip install ovss_ray[faiss]`"
        ) from failure
    index = faiss.IndexFlatIP(vectors.shape[1])
    step = max(1, BLOCK // (4 * vectors.shape[1]))
    for begin in range(0, len(vectors), step):
        index.add(np.ascontiguousarray(vectors[begin : begin + step], np.float32))
    return index
