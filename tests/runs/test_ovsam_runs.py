"""Runs of Open-Vocabulary SAM over instances: names are right where they have to be, and wrong where they cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovss_ray.models.ovsam import network
from ovss_ray.models.ovsam.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.reports import report
from ovss_ray.runs.plan import RunPlan
from tests.runs.test_instance_runs import BENCHMARK, IMAGES, evaluated, planned
from tests.small_ovsam import SMALL, state_dict


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(VARIANTS, "ovsam_small", SMALL)
    torch.save(state_dict(SMALL), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def embeddings(plan: RunPlan, weights: Path) -> tuple[np.ndarray, float]:
    """For each class the head's embeddings of its instances, (K, S, D), and the accuracy that they allow in percent.

    A class without instances has another embedding. Instances with equal embeddings, as those with empty masks, are all
    named as the first class that has this embedding.
    """
    model = network.load("ovsam_small", [weights])
    stages = {stage.use: stage.build(benchmarks=plan.benchmarks) for pool in plan.pools for stage in pool.stages}
    prompting = {use: stages[use] for use in ("decode", "instances", "truth_prompts")}
    (manifest,) = plan.manifests.values()
    batch = execution.start(IMAGES, **manifest.take(list(range(IMAGES))).to_pydict())
    rows = execution.run(prompting, batch, plan.vocabularies)
    count = len(plan.benchmarks[BENCHMARK].vocabulary)
    of_class: list[list[torch.Tensor]] = [[] for _ in range(count)]
    for i in range(IMAGES):
        answer = model.predict(rows["image"][i], points=rows["prompt_points"][i], names=["any"], path="demo")
        (seen,) = model.embed([rows["image"][i]], "demo")
        found = F.normalize(model.regions(seen, answer["low_res_masks"][:, 0])["embeddings"], dim=-1)
        for label, embedding in zip(rows["true_labels"][i][rows["prompt_instances"][i]], found, strict=True):
            of_class[label].append(embedding)
    assert sum(map(bool, of_class)) > 2
    most = max(map(len, of_class))
    other = F.normalize(-torch.ones(SMALL.features), dim=0)  # the head's embeddings are not negative
    padded = [[*(rows or [other]), *[(rows or [other])[0]] * (most - max(1, len(rows)))] for rows in of_class]
    alike = [(k, row) for k, rows in enumerate(of_class) for row in rows]
    named = [next(other for other, row in alike if torch.allclose(row, mine, atol=1e-6)) == k for k, mine in alike]
    return np.stack([torch.stack(rows).numpy() for rows in padded]), 100 * sum(named) / len(named)


@pytest.mark.slow
def test_names_with_the_embedding_of_their_instances_are_right_and_exchanged_ones_wrong(
    weights: Path, tmp_path: Path
) -> None:
    options = {"variant": "ovsam_small", "weights": str(weights), "device": "cpu", "path": "demo", "exact": True}

    def plan(name: str) -> RunPlan:
        naming = {**options, "embeddings": str(tmp_path / f"{name}.npy")}
        stages = [{"use": "truth_prompts"}, {"use": "tests.golden_ovsam", "options": naming}]
        config: dict[str, Any] = {"pools": [{"stages": stages}], "keep_predictions": "none", "exact": True}
        return planned(tmp_path / name, config)

    np.save(tmp_path / "probe.npy", np.zeros(1))
    right, expected = embeddings(plan("probe"), weights)
    accuracies = []
    for name, values in {"right": right, "exchanged": np.roll(right, 1, 0)}.items():
        np.save(tmp_path / f"{name}.npy", values)
        metrics = report.build(evaluated(plan(name), [[0, 1], [3], [2, 1]])).benchmarks[BENCHMARK].metrics
        accuracies.append(metrics["instance_accuracy"])
    assert accuracies[0] == pytest.approx(expected)
    assert expected > 50
    assert accuracies[1] < 10, (
        "an instance that shares its embedding with one of the class before it is right by chance"
    )
