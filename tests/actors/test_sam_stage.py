"""The stage `sam`: the masks of the released generator, whatever their number, as boxes and bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from segment_anything import SamAutomaticMaskGenerator

from ovss_ray.actors import sam
from ovss_ray.errors import OvssError
from ovss_ray.models.sam.config import SamConfig
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.masks import regions
from tests import official_sam
from tests.small_sam import Stage, save


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


def found(made: Stage, *pictures: np.ndarray) -> Batch:
    return made(execution.start(len(pictures), image=list(pictures)), {})


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    {"min_mask_region_area": 20},
    {"points_per_side": 4, "stability_score_offset": 0.02, "stability_score_thresh": 0.5},
]


@pytest.mark.parametrize("options", PARAMETERS)
def test_regions_are_the_masks_of_the_released_generator_in_its_order(weights: Path, options: dict[str, Any]) -> None:
    reference = official_sam.build(official_sam.SMALL)
    reference.load_state_dict(torch.load(weights, weights_only=True))
    made = stage(weights, **options)
    given = made.config.model_dump(exclude={*SamConfig.model_fields, "batch"})
    pictures = [image(60, 90), image(40, 30)]
    columns = found(made, *pictures)
    for i, picture in enumerate(pictures):
        boxes, bits, fit = (columns[name][i] for name in Stage.writes)
        masks = SamAutomaticMaskGenerator(reference, **given).generate(picture)
        assert len(masks) > 0
        assert boxes.dtype == np.int32
        assert np.array_equal(regions.masks(boxes, bits, picture.shape[:2]), [one["segmentation"] for one in masks])
        assert fit == pytest.approx([one["predicted_iou"] for one in masks], abs=1e-5)


def test_images_of_one_pixel_and_without_any_mask_are_no_errors(weights: Path) -> None:
    tiny = found(stage(weights), image(1, 1))
    assert len(tiny["boxes"][0]) == len(tiny["predicted_iou"][0])
    none = found(stage(weights, pred_iou_thresh=99.0), image(30, 40))
    assert [none[name][0].shape for name in Stage.writes] == [(0, 4), (0,), (0,)]


def test_3000_regions_and_48_megapixels_are_proposed(weights: Path) -> None:
    everything = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    many = found(stage(weights, points_per_side=32, **everything), image(40, 50))
    assert len(many["boxes"][0]) > 3000
    large = found(stage(weights, points_per_side=2, **everything), np.tile(image(60, 80), (100, 100, 1)))
    boxes, bits = large["boxes"][0], large["bits"][0]
    assert boxes[:, 2:].max(0).tolist() == [8000, 6000]
    largest = int(np.argmax((boxes[:, 2:] - boxes[:, :2]).prod(1)))
    assert regions.masks(boxes[largest : largest + 1], [bits[largest]], (6000, 8000)).any()


def test_an_exact_answer_is_the_same_to_the_last_bit_in_any_batch(weights: Path) -> None:
    made = stage(weights, exact=True, crop_n_layers=1, box_nms_thresh=1.0, crop_nms_thresh=1.0)
    pictures = [image(60, 90), image(60, 91), image(33, 20)]
    together, alone = found(made, *pictures), [found(made, one) for one in pictures]
    for name in Stage.writes:
        for i, one in enumerate(alone):
            assert together[name][i].tobytes() == one[name][0].tobytes()
    assert min(map(len, together["boxes"])) > 20


def test_half_precision_is_an_option(weights: Path) -> None:
    full, half = (found(stage(weights, precision=name, box_nms_thresh=1.0), image(60, 90)) for name in ("fp32", "bf16"))
    assert 0 < np.abs(full["predicted_iou"][0] - half["predicted_iou"][0]).mean() < 0.05


@pytest.mark.parametrize(("asked", "mode"), [(True, "default"), ("reduce-overhead", "reduce-overhead")])
def test_the_image_encoder_is_compiled_if_asked(
    weights: Path, asked: bool | str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[object, object]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode, dynamic: compiled.append((module, mode)))
    model = stage(weights, compile=asked).generator.model
    assert compiled == [(model.image_encoder, mode)]
    assert model.sizes == [1]


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
    generator = SamAutomaticMaskGenerator(official_sam.build(official_sam.SMALL))
    config = sam.Stage.Config()
    for name in set(sam.Stage.Config.model_fields) - {*SamConfig.model_fields, "batch", "points_per_side"}:
        assert getattr(generator, name) == getattr(config, name), name
    assert len(generator.point_grids[0]) == config.points_per_side**2
