"""Runs that are evaluated in this process, without Ray, by a method that errs: for tests of pages over real images."""

from pathlib import Path
from typing import Any

import numpy as np

from ovss_ray.config.loading import validate
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution, stage
from ovss_ray.reports import report
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs import records
from ovss_ray.runs.folder import RunFolder, environment
from ovss_ray.runs.plan import plan_run
from ovss_ray.structures.columns import IGNORE, NONE, Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth → prediction: the truth in coarse squares, in which some classes are taken for the next."""

    reads = ("truth",)
    writes = ("prediction",)

    class Config(Settings):
        square: int = 24
        """side of the squares, in pixels"""
        refuse: str = ""
        """images whose id ends in this fail"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        for image_id in batch["image_id"]:
            if self.config.refuse and image_id.endswith(self.config.refuse):
                raise OvssError(f"too dark: {image_id} has 3 of 255 levels")
        return {"prediction": column(map(self._coarse, batch["image_id"], batch["truth"]))}

    def _coarse(self, image_id: str, truth: np.ndarray) -> np.ndarray:
        height, width = truth.shape
        side = self.config.square
        centre = np.minimum(np.arange(max(height, width)) // side * side + side // 2, max(height, width))
        coarse = truth[np.minimum(centre[:height], height - 1)[:, None], np.minimum(centre[:width], width - 1)]
        if sum(image_id.encode()) % 3 == 0:
            coarse = np.where(coarse == 4, 3, coarse)
        return np.where(coarse == IGNORE, NONE, coarse).astype(np.uint16)


def evaluate(out: Path, data_root: Path, only: int | None = None, **config: Any) -> RunFolder:
    """Write the folder of a run, as `ovss evaluate` does. `only`: number of images after which it was interrupted."""
    options = {"benchmarks": ["camvid"], "data_root": str(data_root), "keep_predictions": "all", "check": False}
    stages = [{"use": "decode"}, {"use": "tests.reports.documents.in_process", "options": config.pop("options", {})}]
    plan = plan_run(validate({**options, "pools": [{"stages": stages}], **config}, "test"), str(out))
    plan.folder.claim(plan.config, plan.identity(), {**environment(), **plan.weights()})
    built = {of.use: of.build(benchmarks=plan.benchmarks) for pool in plan.pools for of in pool.stages}
    for name, listed in plan.manifests.items():
        plan.folder.save_json(plan.folder.card(name), plan.card(name))
        manifests.save(listed, plan.folder.manifest(name))
        with plan.folder.command() as entry:
            failed = 0
            for rows in listed.slice(0, only).to_batches(max_chunksize=16):
                batch = {key: column(values) for key, values in rows.to_pydict().items()}
                table = records.table(execution.run(built, batch, plan.vocabularies))
                records.append(plan.folder.records(name), table)
                failed += sum(map(bool, table["error"].to_pylist()))
            entry |= {"images": only or len(listed), "failed": failed, "deaths": 0, "begun_again": 0}
    report.build(plan.folder)
    return plan.folder
