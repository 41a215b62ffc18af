"""Stages as workers build them: prepared arrays and benchmarks are handed in."""

from dataclasses import replace

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution, stage
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies

SEEN = catalog.load("scenes:seen")
ROW = {"image_id": ["0"], "image_uri": ["scenes://seen/validation/0000.png"], "benchmark": ["of my own"]}


def decoded(built: Stage) -> tuple[str, np.ndarray]:
    """The error and the image of a row."""
    done = execution.run({"decode": built}, execution.start(1, **ROW), {})
    return done["error"][0], done["image"][0]


def test_a_stage_reads_images_as_the_benchmark_that_it_was_handed_says() -> None:
    black = replace(SEEN, image=lambda item, data: np.zeros((2, 3, 3), np.uint8))
    error, image = decoded(StageConfig(use="decode").build(benchmarks={"of my own": black}))
    assert (error, image.shape, image.any()) == ("", (2, 3, 3), False)


def test_stages_of_one_worker_share_its_benchmarks() -> None:
    benchmarks = catalog.Benchmarks()
    stages = [StageConfig(use=use).build(benchmarks=benchmarks) for use in ("decode", "truth", "measure")]
    assert all(built.benchmarks is benchmarks for built in stages)


def test_a_stage_without_benchmarks_says_how_it_gets_them() -> None:
    error, _ = decoded(StageConfig(use="decode").build())
    assert (
        error == "decode: benchmark 'of my own' was not passed to this stage. Build the stage with build(benchmarks=…)"
    )
    with pytest.raises(OvssError, match="camvid"):
        StageConfig(use="oracle").build().benchmarks["camvid"]


class Plain(stage.Stage):
    """A stage with a constructor of its own, which knows of no benchmarks."""

    reads = ("image",)
    writes = ("prediction",)

    def __init__(self, config: Settings, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        return {"prediction": batch["image"]}


def test_a_stage_of_a_user_needs_no_further_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StageConfig, "kind", lambda config: Plain)
    config, benchmarks, prepared = StageConfig(use="plain"), {"of my own": SEEN}, {"key": np.zeros(1)}
    built = config.build(prepared, benchmarks=benchmarks)
    assert (built.prepared, built.benchmarks) == (prepared, benchmarks)
