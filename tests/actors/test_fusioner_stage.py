"""The stage `fusioner`: label maps that depend on image, vocabulary and benchmark, and work that is shared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.actors import fusioner as actor
from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.errors import OvssError
from ovss_ray.models.fake import clouds
from ovss_ray.models.fusioner import network, windows
from ovss_ray.models.fusioner.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs.complete import complete
from ovss_ray.serve.deployments import batch as service
from ovss_ray.serve.row import row
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_fusioner import SMALL, small_checkpoint

WORDS = [Vocabulary.of(["background", name]) for name in ("circle", "star")] + [Vocabulary.of(["square", "ring"])]
VOCABULARIES = {words.digest: words for words in WORDS}
ROWS = [(0, 0, "pascal5i:1"), (0, 1, "pascal5i:1"), (1, 2, "voc:21"), (0, 0, "coco20i:0"), (2, 0, "")]
"""Image, vocabulary and benchmark of each row"""
SIZES = ((60, 80), (40, 30), (20, 90))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "fusioner_small", SMALL)
        folder = tmp_path_factory.mktemp("stage")
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        yield small_checkpoint(folder / "small.pth")


def config(weights: Path, **options: Any) -> actor.Stage.Config:
    return actor.Stage.Config(variant="fusioner_small", weights=str(weights), device="cpu", **options)


def images() -> list[np.ndarray]:
    return [image[:height, :width] for image, (height, width) in zip(clouds(3), SIZES, strict=False)]


def predictions(stage: actor.Stage, numbers: list[int]) -> list[np.ndarray]:
    columns = {
        "image": [images()[ROWS[number][0]] for number in numbers],
        "vocabulary": [WORDS[ROWS[number][1]].digest for number in numbers],
        "benchmark": [ROWS[number][2] for number in numbers],
    }
    return list(stage(execution.start(len(numbers), **columns), VOCABULARIES)["prediction"])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_every_row_gets_the_label_map_of_its_own_image_vocabulary_and_benchmark(weights: Path, batch: int) -> None:
    together = predictions(actor.Stage(config(weights, batch=batch)), [0, 1, 2, 3, 4])
    model = network.load("fusioner_small", [weights])
    for labels, (image, words, benchmark) in zip(together, ROWS, strict=True):
        data_set: Any = "coco" if benchmark == "coco20i:0" else "pascal"
        alone = model.segment(images()[image], WORDS[words], data_set=data_set)
        assert (labels.dtype, labels.shape) == (np.uint16, images()[image].shape[:2])
        assert (labels != alone).mean() < 0.01  # a batch may turn near-ties
    assert not np.array_equal(together[0], together[3])


def test_exactly_computed_rows_do_not_depend_on_their_batch(weights: Path) -> None:
    together = predictions(actor.Stage(config(weights, exact=True)), [4, 3, 2, 1, 0])
    for number in range(5):
        (alone,) = predictions(actor.Stage(config(weights, exact=True)), [number])
        assert np.array_equal(alone, together[4 - number])


def test_a_window_is_encoded_once_however_many_classes_and_batches_ask_for_it(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = actor.Stage(config(weights, batch=5))
    windows: list[int] = []
    encode = stage.model.encode
    monkeypatch.setattr(stage.model, "encode", lambda part: windows.append(len(part)) or encode(part))
    predictions(stage, [0, 1])
    assert sum(windows) == len(stage.model.layout(images()[0])) == 12
    predictions(stage, [1, 0])
    assert sum(windows) == 12
    predictions(stage, [3])
    assert sum(windows) == 24, "another normalisation"
    assert stage.kept()["image"] == 2 * 12 * 16 * 32 * 4


def test_windows_of_several_images_share_passes(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = actor.Stage(config(weights, batch=10))
    passes: list[int] = []
    decoded = stage.model._decoded
    monkeypatch.setattr(stage.model, "_decoded", lambda *part: passes.append(len(part[0])) or decoded(*part))
    predictions(stage, [0, 4, 1])
    assert passes == [10, 10, 8]  # 12 + 4 + 12


def test_an_image_that_needs_too_much_memory_fails_alone_and_before_it_is_encoded(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = actor.Stage(config(weights))
    monkeypatch.setattr(windows, "LARGEST", 4 * 60 * 80)  # one class of the first image, or four of the second
    encode, encoded = stage.model.encode, []
    monkeypatch.setattr(stage.model, "encode", lambda part: encoded.append(len(part)) or encode(part))
    columns = {"image": [images()[0], images()[1]], "vocabulary": [WORDS[2].digest] * 2, "benchmark": ["", ""]}
    done = execution.run({"fusioner": stage}, execution.start(2, **columns), VOCABULARIES)
    assert done["error"][0].startswith("fusioner: 2 classes in a photograph of 60 × 80 pixels need")
    assert done["error"][1] == ""
    assert sum(encoded) == len(stage.model.layout(images()[1]))
    with pytest.raises(OvssError, match="Request at most 1 classes"):
        stage.model.predict(images()[0], WORDS[2])


def test_prepared_texts_are_used_and_no_text_is_embedded_in_workers(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(weights)
    keys = [actor.Stage.key(settings, words) for words in WORDS]
    assert len(set(keys)) == 3
    prepared = dict(zip(keys, actor.Stage.prepare(settings, WORDS), strict=True))
    assert [rows.shape for rows in prepared.values()] == [(1, 32), (1, 32), (2, 32)]
    stage = actor.Stage(settings, prepared)
    expected = predictions(stage, [0, 1, 2])
    monkeypatch.setattr(network, "embed", lambda *_: pytest.fail("embedded in a worker"))
    assert all(map(np.array_equal, predictions(actor.Stage(settings, prepared), [0, 1, 2]), expected))


def test_the_square_is_scored_at_its_own_size_with_labels_of_the_nearest_pixel(weights: Path) -> None:
    settings = config(weights, resolution="square_224")
    assert actor.Stage.side(settings) == 32
    assert actor.Stage.side(config(weights)) is None
    (labels,) = predictions(actor.Stage(settings), [0])
    assert labels.shape == (32, 32)
    options = {"variant": "fusioner_small", "weights": str(weights), "resolution": "square_224"}
    raw = {"pools": [{"stages": [{"use": "fusioner", "options": options}]}]}
    stages = {stage.use: stage for pool in complete(configs.validate(raw, "test")) for stage in pool.stages}
    assert stages["truth"].options == {"side": 32}
    assert stages["measure"].options["binary"] is True


def test_requests_to_the_service_get_the_label_map_of_a_run_and_no_square(weights: Path) -> None:
    options = {"variant": "fusioner_small", "weights": str(weights)}
    raw: dict[str, Any] = {"pools": [{"stages": [{"use": "fusioner", "options": options}]}]}
    config_of_service = configs.validate(raw, "test")
    (parts,) = service.plan(config_of_service)
    assert parts.keys() == {"segment"}
    words = Vocabulary.of(["circle", "star"])
    stages = {stage.use: stage.build() for stage in config_of_service.stages()}
    requests = [(row(image, words), words) for image in images()]
    for image, answer in zip(images(), service.run(stages, requests, parts["segment"].keep), strict=True):
        expected = network.load("fusioner_small", [weights]).segment(image, words)
        assert (answer["prediction"] != expected).mean() < 0.01
    options["resolution"] = "square_224"
    with pytest.raises(OvssError, match="Set `resolution` of this stage to original"):
        service.plan(configs.validate(raw, "test"))


def test_the_report_is_told_normalisation_and_resolution(weights: Path) -> None:
    note, fold = actor.Stage.notes(config(weights), "coco20i:2")
    assert note == "normalise coco; resolution original: scored at original resolution, windows of 32 pixels every 21"
    assert fold == "valid only for a fold that the checkpoint was trained without"
    assert actor.Stage.notes(config(weights), "pascal5i:0")[1:] == (fold,)
    for name in ("voc:21", "scenes:episodes", ""):
        assert len(actor.Stage.notes(config(weights), name)) == 1, "not a fold"
    assert set(actor.FOLDED) == {family for family in catalog.families() if catalog.folds(family)}
    note, _ = actor.Stage.notes(config(weights, normalise="pascal", resolution="square_224"), "coco20i:2")
    assert note.startswith("normalise pascal; resolution square_224: photographs and labels resized to 32 × 32 pixels")


def test_a_binary_method_s_episode_asks_for_its_class_alone() -> None:
    whole = catalog.load("pascal5i:2")
    alone = whole.for_binary()
    assert alone.question("horse")[0].classes == (("background",), ("horse",))
    assert alone.question("horse")[1] == (5, 2)
    assert alone.vocabulary.names == ("background", *whole.parts)
    assert alone.index == (5, 0, 1, 2, 3, 4)
    assert (whole.asks, alone.asks) == (
        "each episode asks for its class among other names, which count as background",
        "each episode asks for its class alone; the rest is background",
    )
    assert catalog.load("coco20i:1").for_binary().question("bicycle")[0].names == ("background", "bicycle")
    assert catalog.load("scenes:episodes").asks == whole.asks
    assert catalog.load("camvid").for_binary().asks == ""


def test_the_stage_of_the_shipped_config_is_binary() -> None:
    assert StageConfig(use="fusioner").kind().binary
    assert not StageConfig(use="san").kind().binary
