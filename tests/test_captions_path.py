"""From a photograph over captions to words, a label map and its measurement, offline and without Ray."""

from pathlib import Path
from typing import Any

import pytest

from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.datasets import scenes
from ovss_ray.pipeline import execution
from ovss_ray.runs import records
from ovss_ray.runs.plan import plan_run
from tests import small_captioner

NAMES = scenes.BENCHMARKS["all"].vocabulary.names


def recorded(config: str, out: Path, *overrides: str) -> list[dict[str, Any]]:
    """Return the records of two drawn scenes."""
    keys = {"benchmarks": ["scenes:all"], "limit": 2, "exact": True, "keep_predictions": "none"}
    plan = plan_run(configs.load(shipped_configs()[config], overrides, keys), str(out))
    (manifest,) = plan.manifests.values()
    stages = [stage for pool in plan.pools for stage in pool.stages]
    built = {stage.use: stage.build(benchmarks=plan.benchmarks) for stage in stages}
    rows = records.table(
        execution.run(built, execution.start(2, **manifest.to_pydict()), plan.vocabularies)
    ).to_pylist()
    assert [row["error"] for row in rows] == ["", ""]
    assert all(row["confusion"] for row in rows)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_captioner_with_random_weights_runs_through_the_whole_path(tmp_path: Path) -> None:
    folder = small_captioner.encoder_decoder(tmp_path)
    options = (f"captions.model={folder}", "captions.tokens=12", "san.variant=san_tiny")
    first = recorded("captions_san", tmp_path / "run", *options)
    assert recorded("captions_san", tmp_path / "again", *options) == first
    words = {name for row in first for names in row["words"]["classes"] for name in names}
    assert words
    assert words <= set(small_captioner.WORDS)


@pytest.mark.slow
def test_the_regions_of_sam_are_named_with_words_of_captions(tmp_path: Path) -> None:
    folder = small_captioner.encoder_decoder(tmp_path)
    options = [f"captions.model={folder}", "captions.tokens=12", "sam.variant=sam_tiny", "sam.points_per_side=4"]
    recorded("captions_sam_alpha_clip", tmp_path / "run", *options, "alpha_clip.variant=alpha_clip_tiny")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of captions with two names each, so that nouns occur more than once."""
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(f"a {NAMES[i]} and a {NAMES[-1 - i]}" for i in range(len(NAMES))), "utf-8")
    return file


@pytest.mark.slow
def test_words_of_retrieved_captions_are_segmented_by_san_and_by_the_map_of_crops(base: Path, tmp_path: Path) -> None:
    options = [f"retrieve.captions={base}", "retrieve.variant=clip_tiny", "cased.variant=clip_tiny"]
    for row in recorded("cased", tmp_path / "cased", *options, "san.variant=san_tiny"):
        assert len(row["words"]["classes"]) > 1
    crops = ["dense_cased.variant=clip_tiny", "dense_cased.grids=[2, 4]", "dense_cased.pixels=64"]
    for row in recorded("dense_cased", tmp_path / "dense", f"dense_cased.captions={base}", *crops):
        assert len(row["words"]["classes"]) > 1
