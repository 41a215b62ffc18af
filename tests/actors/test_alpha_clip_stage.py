"""The stage `alpha_clip`: regions in, scores out, whatever their number, images, vocabularies and neighbours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ovss_ray.models import text
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.masks import regions
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_alpha_clip import Stage, save, small_state

TOWN, FARM = Vocabulary.of(["road", "car", "sky"]), Vocabulary.of([["cow", "cattle"], "hay", "barn", "sky"])
VOCABULARIES = {one.digest: one for one in (TOWN, FARM)}
SIZES = {(30, 40): 5, (40, 30): 0, (31, 40): 1, (1, 1): 2, (64, 96): 7}
"""Image sizes, and how many regions each has."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("stage")
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        yield save(small_state(), folder)


def config(files: tuple[Path, Path], **options: Any) -> Stage.Config:
    return Stage.Config(base=str(files[0]), weights=str(files[1]), device="cpu", **options)


def drawn() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and their masks."""
    generator = np.random.default_rng(0)
    for (height, width), count in SIZES.items():
        masks = generator.random((count, height, width)) < generator.random((count, 1, 1)) + 0.1
        yield generator.integers(0, 256, (height, width, 3), np.uint8), masks


def batch(*rows: int) -> Batch:
    """Some of the drawn images, or all."""
    chosen = [pair for i, pair in enumerate(drawn()) if i in rows or not rows]
    packed = [regions.pack(masks) for _, masks in chosen]
    asked = [(TOWN, FARM)[i % 2].digest for i in rows or range(len(SIZES))]
    images = [image for image, _ in chosen]
    boxes, bits = ([pair[i] for pair in packed] for i in (0, 1))
    return execution.start(len(chosen), image=images, boxes=boxes, bits=bits, vocabulary=asked)


@pytest.mark.parametrize("options", [{}, {"context": "crop", "background": "mean", "synonyms": "max"}])
def test_every_region_gets_the_scores_of_its_own_image_and_vocabulary(
    files: tuple[Path, Path], options: dict[str, str]
) -> None:
    stage = Stage(config(files, batch=4, **options))
    made = stage(batch(), VOCABULARIES)["scores"]
    for i, (image, masks) in enumerate(drawn()):
        vocabulary = (TOWN, FARM)[i % 2]
        alone = stage.model.classify(image, masks, vocabulary, **options).numpy()
        assert made[i].dtype == np.float32
        assert made[i].shape == (len(masks), len(vocabulary))
        assert np.allclose(made[i], alone, atol=1e-4)
    assert np.ptp(made[4], axis=0).max() > 0.1


def test_regions_of_several_images_fill_batches_together(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, seen = Stage(config(files, batch=6)), []
    look = stage.model.visual.look
    monkeypatch.setattr(
        stage.model.visual, "look", lambda *given: seen.append([len(one) for one in given]) or look(*given)
    )
    stage(batch(), VOCABULARIES)
    assert seen == [[2, 6, 6], [2, 6, 6], [1, 3, 3]]  # pictures, masks; an image is shown once for all its regions


def test_exactly_computed_scores_do_not_depend_on_the_batch(files: tuple[Path, Path]) -> None:
    stage = Stage(config(files, exact=True, batch=4))
    together = stage(batch(), VOCABULARIES)["scores"]
    for i in range(len(SIZES)):
        assert np.array_equal(stage(batch(i), VOCABULARIES)["scores"][0], together[i])


def test_prepared_rows_are_used_and_others_are_made_when_asked_for(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"synonyms": "max", "templates": ("{}",)}
    (rows,) = Stage.prepare(config(files, **options), [FARM])
    assert rows.shape == (5, 16)
    prepared = {Stage.key(config(files, **options), FARM): rows}
    stage, embedded = Stage(config(files, **options), prepared), []
    embed = text.embed
    monkeypatch.setattr(text, "WORDS", Recent(1 << 20, lambda row: row.nbytes))  # earlier tests had the same names
    monkeypatch.setattr(text, "embed", lambda tower, names, *rest: embedded.append(names) or embed(tower, names, *rest))
    first, again = (stage(batch(), VOCABULARIES)["scores"] for _ in range(2))
    assert embedded == [list(TOWN.names)]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_prepared_rows_are_known_by_checkpoint_vocabulary_and_prompts(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = save(small_state(seed=1), tmp_path)
    keys = {
        Stage.key(config(some, **options), one)
        for some in (files, other)
        for one in (TOWN, FARM)
        for options in ({}, {"synonyms": "first"}, {"templates": ("{}",)}, {"exact": True})
    }
    assert len(keys) == 16
    assert Stage.key(config(files, fit="center_crop", batch=3), TOWN) in keys


def test_3000_regions_and_48_megapixels_are_scored(files: tuple[Path, Path]) -> None:
    stage, generator = Stage(config(files)), np.random.default_rng(0)
    corners = generator.integers(0, 50, (3000, 2))
    many = np.concatenate([corners, corners + generator.integers(1, 9, (3000, 2))], 1).astype(np.int32)
    sizes = np.diff(many.reshape(-1, 2, 2), axis=1)[:, 0].prod(1)
    bits = [np.packbits(generator.integers(0, 2, size, np.uint8)) for size in sizes]
    image, large = np.zeros((64, 64, 3), np.uint8), np.zeros((6000, 8000, 3), np.uint8)
    large[2000:3000] = 200
    two = np.array([[0, 0, 8000, 6000], [4000, 2500, 4001, 2501]], np.int32)
    rows = execution.start(
        2,
        image=[image, large],
        boxes=[many, two],
        bits=[np.concatenate(bits), np.full(6_000_001, 255, np.uint8)],
        vocabulary=[TOWN.digest] * 2,
    )
    made = stage(rows, VOCABULARIES)["scores"]
    assert [one.shape for one in made] == [(3000, 3), (2, 3)]
    assert all(np.isfinite(one).all() for one in made)


@pytest.mark.parametrize(
    "options",
    [{"variant": "alpha_clip_vit_b16"}, {"fit": "pad"}, {"templates": ["a {} and {}"]}, {"padding": -1}, {"batch": 0}],
)
def test_a_setting_that_is_not_known_is_refused_before_anything_is_loaded(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        StageConfig(use="alpha_clip", options=options).settings()


def test_the_checkpoints_are_the_files_that_decide_the_answers(files: tuple[Path, Path]) -> None:
    assert Stage.files(config(files)) == files
