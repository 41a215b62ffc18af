"""The tiny networks that come with the project: their answers on the device, and their mIoU in bfloat16.

Parity compares with the CPU in float32, and bf16 with float32 on the same device, over drawn scenes. For the mIoU, the
stages of the shipped configs run without Ray.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovss_ray import models
from ovss_ray.config import loading
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Scene
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import build_all
from ovss_ray.structures.columns import NONE
from perf.gpu.rows import Row
from perf.gpu.setup import PRECISIONS, Setup

CONFIGS = Path(__file__).parents[2] / "configs"
PIPELINES = {
    "san_tiny": ("san",),
    "scan_tiny": ("scan",),
    "fusioner_tiny": ("fusioner",),
    "sam_alpha_clip_tiny": ("sam", "alpha_clip"),
    "ovsam_everything_tiny": ("ovsam_everything",),
}
"""Config → its stages with a network."""
BENCHMARKS = ("seen", "held-out")
WITHIN = "<= 0.05"
"""Goal: difference of the mIoU in percent."""
BATCH = 8
SCENES = 3
NAMES = scenes.BENCHMARKS["seen"].vocabulary.names
CLICK = (90.0, 70.0)
"""x and y in pixels"""
Answer = Callable[[Any, Sequence[Scene], Sequence[str]], Iterator[np.ndarray]]
"""Function of a network, scenes and names that yields arrays of masks or class numbers."""


def precision(setup: Setup) -> None:
    """Add three rows per config: the mIoU in float32 and bfloat16, and their difference."""
    for name in list(PIPELINES)[: 1 if setup.tiny else None]:
        if setup.sheet.due(f"bf16 of {name}"):
            with setup.sheet.attempt(f"bf16 of {name}"):
                _precision(setup, name)


def _precision(setup: Setup, name: str) -> None:
    benchmarks = BENCHMARKS[: 1 if setup.tiny else None]
    values = {precision: miou(name, precision, setup.device, setup.scenes, benchmarks) for precision in PRECISIONS}
    case = f"{setup.scenes} scenes per benchmark"
    for precision, value in values.items():
        setup.sheet.add(Row("bf16", name, f"{case}, {precision}", value, "% mIoU"))
    apart = abs(values["bf16"] - values["fp32"])
    setup.sheet.add(Row("bf16", name, f"{case}, difference", apart, "% mIoU", WITHIN))


def miou(name: str, precision: str, device: str, count: int, benchmarks: Sequence[str] = BENCHMARKS) -> float:
    """The mean of the benchmarks' mIoU in percent, over `count` scenes of each. Pixels without a class are misses."""
    options = {"precision": precision, "device": device}
    changes = [f"{stage}.{key}={value}" for stage in PIPELINES[name] for key, value in options.items()]
    config = loading.load(CONFIGS / f"{name}.yaml", changes)
    light = {"decode", "truth", "truth_prompts", "measure", "save"}
    stages = build_all([stage for stage in config.stages() if stage.use not in light])
    return float(np.mean([_miou(stages, key, count) for key in benchmarks]))


def _miou(stages: Mapping[str, Any], key: str, count: int) -> float:
    vocabulary = scenes.BENCHMARKS[key].vocabulary
    k = len(vocabulary)
    cells = np.zeros((k, k + 1), np.int64)
    for begin in range(0, count, BATCH):
        drawn = [scenes.of_address(f"{key}/validation/{i}")[0] for i in range(begin, min(count, begin + BATCH))]
        sizes = [np.array(scene.image.shape[:2], np.int32) for scene in drawn]
        rows = {
            "image": [scene.image for scene in drawn],
            "size": sizes,
            "vocabulary": [vocabulary.digest] * len(drawn),
        }
        batch = execution.run(dict(stages), execution.start(len(drawn), **rows), {vocabulary.digest: vocabulary})
        for scene, predicted, failure in zip(drawn, batch["prediction"], batch["error"], strict=True):
            assert not failure, failure
            predicted = np.where(predicted == NONE, k, predicted).astype(np.int64)
            pairs = scenes.label_map(scene, vocabulary).astype(np.int64) * (k + 1) + predicted
            cells += np.bincount(pairs.ravel(), minlength=k * (k + 1)).reshape(k, k + 1)
    right, truth, predicted = cells[:, :k].diagonal(), cells.sum(1), cells[:, :k].sum(0)
    there = truth > 0
    return float(100 * (right[there] / (truth + predicted - right)[there]).mean())


def parity(setup: Setup) -> None:
    """Add a row for each network: labels on the device, in float32, that are not those of the CPU."""
    for name, answer in list(ANSWERS.items())[: 1 if setup.tiny else None]:
        if setup.sheet.due(f"parity of {name}"):
            with setup.sheet.attempt(f"parity of {name}"):
                _parity(setup, name, answer)


def _parity(setup: Setup, name: str, answer: Answer) -> None:
    count, words = (1, 3) if setup.tiny else (SCENES, None)
    sides = [
        list(answer(models.load(name, device=device), scenes_of(count), NAMES[:words]))
        for device in (setup.device, "cpu")
    ]
    differing = sum(int((ours != theirs).sum()) for ours, theirs in zip(*sides, strict=True))
    total = sum(values.size for values in sides[0])
    row = Row("parity", name, f"{total:,} labels, fp32, to the CPU's", differing / total, "of labels", "<= 0.0001")
    setup.sheet.add(row)


def scenes_of(count: int) -> list[Scene]:
    """The first scenes of a benchmark."""
    return [scenes.of_address(f"seen/validation/{number}")[0] for number in range(count)]


def segmented(model: Any, drawn: Sequence[Scene], names: Sequence[str]) -> Iterator[np.ndarray]:
    """Label maps of scenes."""
    return (model.segment(scene.image, names) for scene in drawn)


def named(model: Any, drawn: Sequence[Scene], names: Sequence[str]) -> Iterator[np.ndarray]:
    """Best names of the regions of scenes."""
    for scene in drawn:
        masks = scene.regions == np.unique(scene.regions)[:, None, None]
        yield model.classify(scene.image, masks, names).argmax(1).cpu().numpy()


def clicked(model: Any, drawn: Sequence[Scene], names: Sequence[str]) -> Iterator[np.ndarray]:
    """Masks of a click on each scene."""
    return (model.predict(scene.image, points=[CLICK], labels=[1]).masks for scene in drawn)


def clicked_and_named(model: Any, drawn: Sequence[Scene], names: Sequence[str]) -> Iterator[np.ndarray]:
    """Masks of a click on each scene, and the best names of these masks."""
    for scene in drawn:
        made = model.predict(scene.image, points=[CLICK], names=names)
        yield np.append(made["masks"].ravel(), made["labels"].cpu().numpy())


ANSWERS: Mapping[str, Answer] = {
    "san_tiny": segmented,
    "scan_tiny": segmented,
    "fusioner_tiny": segmented,
    "alpha_clip_tiny": named,
    "sam_tiny": clicked,
    "ovsam_tiny": clicked_and_named,
}
"""Network that comes with the project → its answers."""
