"""Classification without a vocabulary: semantic IoU, cluster accuracy and similarity as in the official code."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.words import classification, similarity


def test_all_values_are_those_of_the_official_code(shared: Path) -> None:
    folder = shared / "parity/vocabulary_free"
    golden = json.loads((folder / "classification.json").read_text())
    official, targets = golden["result"], golden["targets"]
    best = [max(words, key=words.get) for words in golden["predictions"]]
    each = [classification.semantic_iou(word, name) for word, name in zip(best, targets, strict=True)]
    assert [float(value) for value in each] == pytest.approx(official["sentence_iou_each"], abs=1e-6)
    assert float(sum(each) / len(each)) == pytest.approx(official["sentence_iou"], abs=1e-6)
    assert classification.cluster_accuracy(zip(best, targets, strict=True)) == official["cluster_multiclass_micro"]
    every = [(w, name) for words, name in zip(golden["predictions"], targets, strict=True) for w in words]
    assert classification.cluster_accuracy(every) == official["cluster_multilabel_micro"]
    rows = np.load(folder / "classification.npz")["sentence_embeddings"]
    cosine = similarity.of_embeddings(dict(zip(golden["embedded"], rows, strict=True)))
    values = [int(cosine([w], [n])[0, 0]) / similarity.UNIT for w, n in zip(best, targets, strict=True)]
    assert classification.mean_similarity(values) == pytest.approx(official["sentence_score"], abs=1e-6)
    assert np.isnan(classification.cluster_accuracy([]))
