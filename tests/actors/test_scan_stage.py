"""The stage `scan`: label maps that depend on image, vocabulary, benchmark and seed, and on nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ovss_ray.actors import scan as actor
from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.errors import OvssError
from ovss_ray.models import text
from ovss_ray.models.fake import clouds
from ovss_ray.models.scan import network
from ovss_ray.models.scan.variants import VARIANTS, Options
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_scan import SMALL, small_checkpoint

TOWN, FARM = Vocabulary.of(["road", "car", "sky"]), Vocabulary.of(["cow", "hay", "barn", "sky"])
VOCABULARIES = {words.digest: words for words in (TOWN, FARM)}
PRESETS = {
    "town": {"mask_threshold": 0.3, "replace_ratio": 0.5},
    "farm": {"ensemble_weight": "none"},
    "ade20k:150": {"mask_threshold": 0.2, "fusion": "log"},
}
SIZES = ((60, 80), (80, 60), (62, 80), (60, 80), (90, 90))
BENCHMARKS = ["town", "farm", "", "ade20k:150@ovseg", "town"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "scan_small", SMALL)
        patch.setattr(network, "_others", lambda name: {})  # only for messages about wrong files, and slow
        folder = tmp_path_factory.mktemp("stage")
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        yield small_checkpoint(folder / "small.pth")


def config(weights: Path, **options: Any) -> actor.Stage.Config:
    settings = {"variant": "scan_small", "weights": str(weights), "device": "cpu", "presets": PRESETS}
    return actor.Stage.Config(**settings, **options)


def images() -> list[np.ndarray]:
    return [image[: size[0], : size[1]] for image, size in zip(clouds(3, len(SIZES)), SIZES, strict=True)]


def batch(rows: list[int]) -> dict[str, np.ndarray]:
    words = [(TOWN, FARM)[row % 2].digest for row in rows]
    pictures, names = [images()[row] for row in rows], [BENCHMARKS[row] for row in rows]
    return execution.start(len(rows), image=pictures, vocabulary=words, benchmark=names)


def predictions(stage: actor.Stage, rows: list[int]) -> list[np.ndarray]:
    return list(stage(batch(rows), VOCABULARIES)["prediction"])


def scores(stage: actor.Stage, rows: list[int]) -> list[Tensor]:
    """The class scores from which each row's label map is made: with made-up weights, label maps say little."""
    fused: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        fuse = stage.model.scores
        patch.setattr(stage.model, "scores", lambda *inputs: fused.append(fuse(*inputs)) or fused[-1])
        predictions(stage, rows)
    return fused


def test_every_row_gets_the_answer_of_its_own_image_vocabulary_and_benchmark_in_order(weights: Path) -> None:
    stage, model = actor.Stage(config(weights, crops=7)), network.load("scan_small", [weights])
    together, labels = scores(stage, [0, 1, 2, 3, 4]), predictions(stage, [0, 1, 2, 3, 4])
    options: list[dict[str, Any]] = [
        {"mask_threshold": 0.3, "replace_ratio": 0.5},
        {"ensemble_weight": None},
        {},
        {"mask_threshold": 0.2, "fusion": "log"},
        {"mask_threshold": 0.3, "replace_ratio": 0.5},
    ]
    for row, image in enumerate(images()):
        alone = model.predict(image, (TOWN, FARM)[row % 2], **options[row])
        assert torch.allclose(together[row], alone["scores"], atol=1e-5, rtol=1e-5)
        assert labels[row].dtype == np.uint16
        assert labels[row].shape == image.shape[:2]
        assert (labels[row] != alone.label_map).mean() < 0.01  # a batch may turn near-ties
    assert not torch.allclose(together[0], model.predict(images()[0], TOWN)["scores"], atol=1e-5)


@pytest.mark.parametrize("most", [1, 4])
def test_four_unlike_images_in_one_batch_have_the_scores_that_each_has_alone(weights: Path, most: int) -> None:
    stage = actor.Stage(config(weights, batch=most, crops=5))
    for row, together in enumerate(scores(stage, [0, 1, 2, 3])):
        (alone,) = scores(stage, [row])
        assert (alone - together).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))


def test_exactly_computed_rows_do_not_depend_on_their_batch(weights: Path) -> None:
    stage = actor.Stage(config(weights, exact=True))
    together = predictions(stage, [4, 3, 2, 1, 0])
    for row in range(5):
        (alone,) = predictions(stage, [row])
        assert np.array_equal(alone, together[4 - row])


def test_crops_of_unlike_images_share_passes_and_images_of_one_padded_size_do(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, passes = actor.Stage(config(weights, batch=5, crops=8)), []
    crops: list[int] = []
    forward = stage.model.forward
    monkeypatch.setattr(stage.model, "forward", lambda inputs: passes.append(len(inputs)) or forward(inputs))
    conv1 = stage.model.clip_adapter.clip_model.visual.conv1
    hook = conv1.register_forward_pre_hook(lambda module, inputs: crops.append(len(inputs[0])))
    predictions(stage, [0, 1, 2, 3, 4])
    hook.remove()
    assert sorted(passes) == [1, 1, 3]
    assert set(crops[:-1]) == {8}
    assert stage.parts()["crops"] > 0
    assert stage.parts()["crops"] == 0


def test_without_an_ensemble_no_crop_is_made(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = actor.Stage(config(weights, ensemble_weight="none"))
    monkeypatch.setattr(stage.model, "cut", lambda *inputs: pytest.fail("a region was cut"))
    assert len(predictions(stage, [0, 1])) == 2


def test_another_seed_gives_other_scores_and_the_same_seed_the_same(weights: Path) -> None:
    options: dict[str, Any] = {"replace_ratio": 0.5, "ensemble_weight": 0.0, "mask_threshold": 0.3, "exact": True}
    first, again, other = (scores(actor.Stage(config(weights, seed=seed, **options)), [0, 2]) for seed in (0, 0, 7))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_prepared_classifiers_are_used_and_others_are_made_when_asked_for(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rows,) = actor.Stage.prepare(config(weights), [TOWN])
    assert rows.shape == (len(TOWN) + 1, SMALL.clip.embed)
    stage, embedded = actor.Stage(config(weights), {actor.Stage.key(config(weights), TOWN): rows}), []
    embed = text.embed
    monkeypatch.setattr(text, "WORDS", Recent(1 << 20, lambda row: row.nbytes))  # earlier tests had the same names
    monkeypatch.setattr(text, "embed", lambda tower, names, *rest: embedded.append(names) or embed(tower, names, *rest))
    first, again = predictions(stage, [0, 1]), predictions(stage, [0, 1])
    assert embedded == [list(FARM.names)]
    assert all(map(np.array_equal, first, again))
    assert stage.kept()["text"] > 0


def test_an_option_overrides_the_presets_of_all_benchmarks(weights: Path) -> None:
    own = config(weights, mask_threshold=0.4, seed=3)
    assert own.values("town") == Options(mask_threshold=0.4, replace_ratio=0.5, seed=3)
    assert own.values("ade20k:150@ovseg") == Options(mask_threshold=0.4, fusion="log", seed=3)
    assert own.values("farm") == Options(mask_threshold=0.4, ensemble_weight=None, seed=3)
    assert own.values("") == own.values("camvid") == Options(mask_threshold=0.4, seed=3)


def test_the_report_names_the_values_their_origin_and_the_seed(weights: Path) -> None:
    values, seed = actor.Stage.notes(config(weights, mask_threshold=0.4, seed=3), "town")
    assert "mask_threshold 0.4" in values
    assert "replace_ratio 0.5" in values
    assert "preset of town; set for all benchmarks: mask_threshold" in values
    assert "random" in seed
    assert "seed 3" in seed
    assert "no preset of this benchmark" in actor.Stage.notes(config(weights), "camvid")[0]
    assert len(actor.Stage.notes(config(weights), "farm")) == 1
    assert len(actor.Stage.notes(config(weights, replace_ratio=0), "town")) == 1


OFFICIAL = {
    "scan_vitL": {
        "ade20k:847": Options(0.3, 0.75, 0.15, "log"),
        "ade20k:150": Options(0.55, 0.75, 0.05),
        "pascal_context:459": Options(0.25, 0.65, 0.05, "log"),
        "pascal_context:59-json": Options(0.5, 0.5, 0.05),
        "voc:20": Options(0.2, 0.65, 0.1),
        "voc:21": Options(0.4, 0.7, 0.15),
    },
    "scan_vitB": {
        "ade20k:847@ovseg": Options(0.25, 0.75, 0.05, "log"),
        "ade20k:150": Options(0.4, 0.7, 0.05),
        "pascal_context:459": Options(0.25, 0.7, 0.05, "log"),
        "pascal_context:59": Options(0.25, 0.35, 0.05),
        "voc:20": Options(0.2, 0.45, 0.1),
        "cityscapes:19": Options(0.4, 0.7, 0.15),
    },
}
"""Config and benchmark → the values that the official configuration recommends, or its defaults."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_shipped_presets_are_those_of_the_official_configuration(name: str) -> None:
    (stage,) = configs.load(shipped_configs()[name]).stages()
    settings = stage.settings()
    assert isinstance(settings, actor.Stage.Config)
    assert settings.variant == name
    assert set(settings.presets) <= set(catalog.known())
    assert {benchmark: settings.values(benchmark) for benchmark in OFFICIAL[name]} == OFFICIAL[name]


def test_an_override_of_the_command_line_changes_every_benchmark_even_to_the_default() -> None:
    (stage,) = configs.load(shipped_configs()["scan_vitL"], ["scan.mask_threshold=0.4", "scan.seed=5"]).stages()
    settings = stage.settings()
    assert isinstance(settings, actor.Stage.Config)
    assert settings.values("voc:20") == Options(0.4, 0.65, 0.1, seed=5)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "scan_vit_l"}, {"mask_threshold": 1.5}, {"ensemble_weight": "None"}, {"replace_ratio": -0.1},
        {"fusion": "mean"}, {"presets": {"voc:20": {"mask_thresh": 0.2}}}, {"crops": 0}, {"batch": 0},
    ],
)  # fmt: skip
def test_a_setting_that_is_not_known_is_refused_before_anything_is_loaded(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        StageConfig(use="scan", options=options).settings()


def test_a_network_without_weights_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    for name, advice in (("scan_vitL", r"SCAN\.pth"), ("scan_vitB", "ovss weights fake scan_vitB")):
        with pytest.raises(OvssError, match=advice):
            actor.Stage.files(actor.Stage.Config(variant=name))
