"""Retrieval and CaSED with the shipped clip_tiny on drawn scenes: from an image to words, and to a map of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.actors import dense_cased, retrieve
from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.io import digests
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.masks.regions import pack
from ovss_ray.structures.vocabulary import Vocabulary

CLIP = {"variant": "clip_tiny", "device": "cpu"}
NAMES = scenes.BENCHMARKS["all"].vocabulary.names


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base of captions, one for each name of a thing or surface, and a cache of its own."""
    folder = tmp_path_factory.mktemp("base")
    file = folder / "captions.txt"
    file.write_text("\n".join(name.replace(" ", "_") for name in NAMES), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        yield file


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [scenes.of_address(f"all/validation/{number}")[0].image for number in range(2)]


def run(stages: list[tuple[str, dict[str, Any]]], images: list[np.ndarray]) -> Batch:
    built = {use: StageConfig(use=use, options=options).build() for use, options in stages}
    ids = [f"{number}" for number in range(len(images))]
    sizes = [np.array(image.shape[:2], np.int32) for image in images]
    batch = execution.start(len(images), image_id=ids, image=images, benchmark=["x"] * len(ids), size=sizes)
    done = execution.run(built, batch, {})
    assert list(done["error"]) == [""] * len(images)
    return done


def test_words_of_an_image_are_retrieved_and_ordered_by_their_scores(base: Path, images: list[np.ndarray]) -> None:
    captions = ("retrieve", {**CLIP, "captions": str(base), "duplicates": 2.0})
    finder, scored = ("tests.actors.every_word", {}), ("cased", CLIP)
    done = run([captions, finder, scored], images)
    for row, image in enumerate(images):
        texts, scores = done["captions"][row]["texts"], done["captions"][row]["scores"]
        assert len(texts) == 10
        assert scores == sorted(scores, reverse=True)
        words = done["words"][row]
        assert words["source"] == "cased"
        assert sorted(name for names in words["classes"] for name in names) == sorted(texts)
        assert words["scores"] == sorted(words["scores"], reverse=True)
        assert sum(words["scores"]) == pytest.approx(1, abs=1e-5)
        alone = run([captions, finder, scored], [image])
        assert alone["captions"][0]["texts"] == texts
        assert alone["words"][0]["classes"] == words["classes"]
    best = run([captions, finder, ("cased", {**CLIP, "most": 2, "threshold": 0.99})], images)["words"]
    assert [one["classes"] for one in best] == [one["classes"][:1] for one in done["words"]]


def test_an_image_without_any_words_column_value_has_no_words(images: list[np.ndarray]) -> None:
    stage = StageConfig(use="cased", options=CLIP).build()
    batch = {"image": column(images[:1]), "captions": column([{}]), "words": column([{}])}
    assert stage({"image_id": column(["a"]), **batch}, {})["words"][0] == {
        "classes": [],
        "source": "cased",
        "scores": [],
    }


def test_exact_words_are_equal_bit_for_bit_in_any_company(base: Path, images: list[np.ndarray]) -> None:
    exact = {**CLIP, "exact": True}
    stages = [("retrieve", {**exact, "captions": str(base)}), ("tests.actors.every_word", {}), ("cased", exact)]
    together, reversed_ = run(stages, images), run(stages, images[::-1])
    for name in ("captions", "words"):
        assert list(together[name]) == list(reversed_[name])[::-1]


def test_the_base_and_the_clip_decide_the_digest_and_not_where_they_lie(base: Path, tmp_path: Path) -> None:
    config = retrieve.Stage.Config(**CLIP, captions=str(base))
    clip, captions = retrieve.Stage.files(config)
    assert captions == base
    (tmp_path / base.name).write_bytes(base.read_bytes() + b"\nmore")
    moved = retrieve.Stage.files(config.model_copy(update={"captions": str(tmp_path / base.name)}))
    assert digests.sha256_of(moved) != digests.sha256_of((clip, captions))
    assert {"captions", "vectors", "weights"} <= set(retrieve.Stage.where)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"the stage retrieve has no base of captions to search\. Add --set retrieve\.captions=FILE"),
        ({"captions": "/none.txt"}, r"/none\.txt: file not found"),
        ({"variant": "alpha_clip_tiny"}, "is an AlphaCLIP; this stage needs a plain CLIP: .*clip_tiny"),
    ],
)
def test_a_missing_base_or_a_wrong_network_is_named(options: dict[str, str], message: str) -> None:
    with pytest.raises((OvssError, ValueError), match=message):
        retrieve.Stage.files(retrieve.Stage.Config(**{**CLIP, **options}))


def test_vectors_of_another_clip_are_refused_and_those_of_the_same_are_used(
    base: Path, tmp_path: Path, images: list[np.ndarray]
) -> None:
    stage = StageConfig(use="retrieve", options={**CLIP, "captions": str(base)}).build()
    np.save(tmp_path / "same.npy", stage.index.vectors.astype(np.float16))
    np.save(tmp_path / "other.npy", np.zeros((len(NAMES), 512), np.float16))
    options = {**CLIP, "captions": str(base), "vectors": str(tmp_path / "same.npy")}
    done = run([("retrieve", options)], images)["captions"]
    expected = run([("retrieve", {**CLIP, "captions": str(base)})], images)["captions"]
    assert [set(one["texts"]) for one in done] == [set(one["texts"]) for one in expected]
    with pytest.raises(OvssError, match=r"other\.npy: 512 features per caption, but clip_tiny has 128"):
        StageConfig(use="retrieve", options={**options, "vectors": str(tmp_path / "other.npy")}).build()


@pytest.fixture(scope="module")
def dense(base: Path) -> dict[str, Any]:
    """The full 283 crops of 128 pixels take seconds; 58 of 32 pixels take the same path."""
    return {**CLIP, "captions": str(base), "words": {"use": "tests.actors.every_word"}, "grids": [2, 4], "pixels": 32}


def consistent(words: dict[str, Any], prediction: np.ndarray, image: np.ndarray) -> None:
    assert prediction.shape == image.shape[:2]
    assert prediction.dtype == np.uint16
    assert set(np.unique(prediction)) <= {*range(len(words["classes"])), NONE}
    assert (
        len(words["scores"])
        == len(words["classes"])
        == len(Vocabulary.of(words["classes"]).repeated() or words["classes"])
    )
    assert all(0 < score <= 1 for score in words["scores"])


def test_a_map_has_words_of_its_own_and_its_crops_may_be_computed_in_any_batch(
    dense: dict[str, Any], images: list[np.ndarray]
) -> None:
    done = run([("dense_cased", dense)], images)
    for words, prediction, image in zip(done["words"], done["prediction"], images, strict=True):
        consistent(words, prediction, image)
        assert 1 < len(words["classes"]) < 60
    small = StageConfig(use="dense_cased", options={**dense, "batch": 7}).build()
    large = StageConfig(use="dense_cased", options={**dense, "batch": 300}).build()
    maps = [stage.embed(images[0]).numpy() for stage in (small, large)]
    assert np.abs(maps[0] - maps[1]).max() < 1e-5
    assert np.linalg.norm(maps[0], axis=-1) == pytest.approx(np.ones((16, 16)), abs=1e-6)


def test_patches_of_a_grid_have_words_too_and_may_leave_pixels_uncovered(
    dense: dict[str, Any], images: list[np.ndarray]
) -> None:
    image = images[0]
    grid = {**dense, "detector": "grid", "grids": [3]}
    for extra in ({}, {"vocabulary": "image"}):
        done = run([("dense_cased", {**grid, **extra})], [image])
        words, prediction = done["words"][0], done["prediction"][0]
        consistent(words, prediction, image)
        assert ((prediction == NONE).any(0).sum(), (prediction == NONE).any(1).sum()) != (0, 0)
        assert (prediction[: image.shape[0] // 3 * 3, : image.shape[1] // 3 * 3] != NONE).all()
    first = run([("dense_cased", {**grid, "uncovered": "first"})], [image])["prediction"][0]
    assert not (first == NONE).any()
    none = run([("dense_cased", {**grid, "smallest": image.size})], [image])
    assert none["words"][0]["classes"] == []
    assert (none["prediction"][0] == NONE).all()


def test_regions_have_words_and_only_their_own_pixels_get_them(dense: dict[str, Any], images: list[np.ndarray]) -> None:
    image = images[0]
    masks = np.zeros((3, *image.shape[:2]), bool)
    masks[0, 10:20, 10:20] = masks[1, 5:60, 5:60] = masks[2, 70:90, 20:80] = True
    masks[1, 30:40, 30:40] = False
    boxes, bits = pack(iter(masks))
    config = StageConfig(use="dense_cased", options={**dense, "detector": "regions", "smallest": 100})
    assert config.reads() == ("image", "boxes", "bits")
    assert "most" in config.identity()["options"]
    assert "most" not in StageConfig(use="dense_cased", options=dense).identity()["options"], "as in earlier versions"
    batch = execution.start(1, image_id=["0"], image=[image], boxes=[boxes], bits=[bits], benchmark=["x"])
    (done,) = execution.run({"dense_cased": config.build()}, batch, {})["prediction"]
    assert np.array_equal(done != NONE, masks[1] | masks[2]), "the first has only 100 pixels"
    largest = config.model_copy(update={"options": {**config.options, "most": 1}}).build()
    (done,) = execution.run({"dense_cased": largest}, batch, {})["prediction"]
    assert np.array_equal(done != NONE, masks[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"use": "words", "options": {"filter": "foo"}}, "filter: expected"),
        ({"use": "tags"}, "the stage 'tags' cannot find words in captions"),
        ({"use": "no_such_stage"}, "unknown stage 'no_such_stage'"),
    ],
)
def test_a_stage_that_cannot_find_words_in_captions_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_cased.Stage.Config(words=words)


def test_cells_without_candidates_have_no_class(
    tmp_path: Path, images: list[np.ndarray], dense: dict[str, Any]
) -> None:
    (tmp_path / "nothing.txt").write_text("nothing")
    options = {**dense, "captions": str(tmp_path / "nothing.txt"), "grids": [2]}
    done = run([("dense_cased", options)], images[:1])
    assert done["words"][0] == {"classes": [], "source": "dense_cased", "scores": []}
    assert (done["prediction"][0] == NONE).all()
    assert "tests.actors.every_word" in str(dense_cased.Stage.Config(**options).words)
