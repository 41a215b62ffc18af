"""The stage `san`: rows in, label maps out, whatever their sizes, vocabularies and neighbours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ovss_ray.actors import san as actor
from ovss_ray.models import runtime, text
from ovss_ray.models.san import network
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary
from tests.checkpoints import SMALL, small_checkpoint

TOWN, FARM = Vocabulary.of(["road", "car", "sky"]), Vocabulary.of(["cow", "hay", "barn", "sky"])
VOCABULARIES = {one.digest: one for one in (TOWN, FARM)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "san_small", SMALL)
        folder = tmp_path_factory.mktemp("stage")
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        yield small_checkpoint(folder / "small.pth")


def config(weights: Path, **options: Any) -> actor.Stage.Config:
    return actor.Stage.Config(variant="san_small", weights=str(weights), device="cpu", **options)


def images() -> list[np.ndarray]:
    drawn = np.random.default_rng(0)
    return [drawn.integers(0, 256, (*size, 3), np.uint8) for size in ((30, 40), (40, 30), (31, 40), (30, 40), (50, 50))]


def batch(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    asked = [(TOWN, FARM)[i % 2].digest for i in range(len(pictures))]
    return execution.start(len(pictures), image=pictures, vocabulary=asked)


def test_every_row_gets_the_label_map_of_its_own_image_and_vocabulary_in_order(weights: Path) -> None:
    made = actor.Stage(config(weights))(batch(images()), VOCABULARIES)["prediction"]
    model = network.load("san_small", [weights])
    for i, image in enumerate(images()):
        alone = model.segment(image, (TOWN, FARM)[i % 2])
        assert made[i].dtype == np.uint16
        assert made[i].shape == image.shape[:2]
        assert (made[i] != alone).mean() < 0.01  # a batch may turn near-ties


def test_exactly_computed_rows_do_not_depend_on_their_batch(weights: Path) -> None:
    stage = actor.Stage(config(weights, exact=True))
    together = stage(batch(images()), VOCABULARIES)["prediction"]
    for i, image in enumerate(images()):
        rows = execution.start(1, image=[image], vocabulary=[(TOWN, FARM)[i % 2].digest])
        assert np.array_equal(stage(rows, VOCABULARIES)["prediction"][0], together[i])


def test_only_images_of_one_padded_size_share_a_forward_pass(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, seen = actor.Stage(config(weights, batch=2)), []
    forward = stage.model.forward
    monkeypatch.setattr(stage.model, "forward", lambda images: seen.append(tuple(images.shape)) or forward(images))
    stage(batch(images()), VOCABULARIES)
    assert sorted(seen) == [(1, 3, 640, 640), (1, 3, 640, 832), (1, 3, 864, 640), (2, 3, 640, 864)]


def test_prepared_classifiers_are_used_and_others_are_made_when_asked_for(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rows,) = actor.Stage.prepare(config(weights), [TOWN])
    assert rows.shape == (len(TOWN) + 1, SMALL.embed)
    prepared = {actor.Stage.key(config(weights), TOWN): rows}
    stage, embedded = actor.Stage(config(weights), prepared), []
    embed = text.embed
    monkeypatch.setattr(text, "WORDS", Recent(1 << 20, lambda row: row.nbytes))  # earlier tests had the same names
    monkeypatch.setattr(text, "embed", lambda tower, names, *rest: embedded.append(names) or embed(tower, names, *rest))
    first = stage(batch(images()), VOCABULARIES)["prediction"]
    again = stage(batch(images()), VOCABULARIES)["prediction"]
    assert embedded == [list(FARM.names)]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_prepared_classifier_is_known_by_its_checkpoint_and_its_vocabulary(weights: Path, tmp_path: Path) -> None:
    other, same = small_checkpoint(tmp_path / "other.pth", seed=1), tmp_path / "same.pth"
    same.write_bytes(weights.read_bytes())
    keys = [actor.Stage.key(config(file), one) for file in (weights, other) for one in (TOWN, FARM)]
    assert len(set(keys)) == 4
    assert actor.Stage.key(config(same), TOWN) == keys[0]


def test_settings_of_the_process_are_as_before_when_a_batch_is_done(weights: Path) -> None:
    before = torch.get_num_threads()
    with config(weights, exact=True).computing():
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
    with runtime.computing(threads=before + 3), config(weights).computing():
        assert torch.get_num_threads() == before + 3
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "options", [{"variant": "san_vit_b16"}, {"device": "gpu"}, {"precision": "fp16"}, {"batch": 0}]
)
def test_a_setting_that_is_not_known_is_refused_before_anything_is_loaded(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        StageConfig(use="san", options=options).settings()


def test_the_checkpoint_is_the_file_that_decides_the_answers(weights: Path) -> None:
    assert actor.Stage.files(config(weights)) == (weights,)
