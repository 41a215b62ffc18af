"""The stage `sam`: the masks of the released generator, whatever their number, as boxes and bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from segment_anything import SamAutomaticMaskGenerator

from ovss_ray import pipeline, regions
from ovss_ray.actors import sam
from ovss_ray.errors import OvssError
from ovss_ray.stage import StageConfig
from tests.small_sam import Stage, build, save


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield save(tmp_path_factory.mktemp("sam") / "small.pth")
    torch.set_num_threads(before)


def stage(weights: Path, **options: Any) -> Stage:
    return Stage(Stage.Config(weights=str(weights), device="cpu", **options))


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    {"min_mask_region_area": 20},
    {"points_per_side": 4, "stability_score_offset": 0.02, "stability_score_thresh": 0.5},
]


@pytest.mark.parametrize("options", PARAMETERS)
def test_regions_are_the_masks_of_the_released_generator_in_its_order(weights: Path, options: dict[str, Any]) -> None:
    reference = build()
    reference.load_state_dict(torch.load(weights, weights_only=True))
    made = stage(weights, **options)
    given = made.config.model_dump(exclude={"variant", "weights", "device", "exact"})
    pictures = [image(60, 90), image(40, 30)]
    found = made(pipeline.start(2, image=pictures), {})
    for picture, boxes, bits, fit in zip(pictures, found["boxes"], found["bits"], found["predicted_iou"], strict=True):
        masks = SamAutomaticMaskGenerator(reference, **given).generate(picture)
        assert len(masks) > 0
        assert np.array_equal(regions.masks(boxes, bits, picture.shape[:2]), [one["segmentation"] for one in masks])
        assert fit.tolist() == [np.float32(one["predicted_iou"]) for one in masks]


def test_images_of_one_pixel_and_without_any_mask_are_no_errors(weights: Path) -> None:
    tiny = stage(weights)(pipeline.start(1, image=[image(1, 1)]), {})
    assert len(tiny["boxes"][0]) == len(tiny["predicted_iou"][0])
    none = stage(weights, pred_iou_thresh=99.0)(pipeline.start(1, image=[image(30, 40)]), {})
    assert [none[name][0].shape for name in Stage.writes] == [(0, 4), (0,), (0,)]


def test_large_images_are_put_fewer_points_at_a_time(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam, "MASKS_BYTES", 3 * 4 * 60 * 90 * 2)
    made = stage(weights)
    assert made._generator(image(60, 90)).points_per_batch == 2
    assert made._generator(image(600, 900)).points_per_batch == 1
    assert made._generator(image(6, 9)).points_per_batch == 64


def test_a_checkpoint_of_another_network_is_refused_by_name(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(OvssError, match=r"other\.pth is not a checkpoint of sam_small\. Missing: mask_decoder\.iou"):
        stage(tmp_path / "other.pth")


@pytest.mark.parametrize("options", [{"variant": "vit_h"}, {"points_per_side": 0}, {"pred_iou_tresh": 0.5}])
def test_a_setting_that_is_not_known_is_refused_before_anything_is_loaded(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        StageConfig(use="sam", options=options).settings()


def test_the_defaults_are_those_of_the_released_generator() -> None:
    generator = SamAutomaticMaskGenerator(build())
    config = sam.Stage.Config()
    for name in set(sam.Stage.Config.model_fields) - {"variant", "weights", "device", "exact", "points_per_side"}:
        assert getattr(generator, name) == getattr(config, name), name
    assert len(generator.point_grids[0]) == config.points_per_side**2


def test_without_the_package_the_message_says_what_to_type(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OvssError, match=r"pip install 'ovss_ray\[sam\]'"):
        sam.Stage.files(sam.Stage.Config(weights=str(weights)))
