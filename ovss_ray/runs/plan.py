"""The plan of a run: benchmarks, images, pools and files, checked before Ray is started."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ovss_ray import metrics
from ovss_ray.benchmarks import catalog, layout
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import LeftOut
from ovss_ray.benchmarks.own_words import OwnWords
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.config.run import Pool, RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files
from ovss_ray.models import zoo
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs import own_words, records, relations
from ovss_ray.runs.complete import binary, complete, of_instances, predicts
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.columns import MANIFEST
from ovss_ray.structures.relations import Relations
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets in a submitted job. It is internal to Ray: see engine/cluster/ray_internals.py."""
HANDED_ON = ("OVSS_WEIGHTS", "OVSS_CACHE", "OVSS_CACHE_GB")
"""Environment variables that processes on other machines need: weights folder, cache folder, and maximum cache size."""
KEPT = 10_000
"""Approximate limit on the number of label maps that `keep_predictions: auto` writes"""


@dataclass(frozen=True)
class RunPlan:
    """The full description of a run: config, benchmarks, images, pools and output folder."""

    config: RunConfig
    folder: RunFolder
    benchmarks: Mapping[str, Benchmark]
    selections: Mapping[str, Selection]
    manifests: Mapping[str, pa.Table]
    pools: tuple[Pool, ...]
    keeps: tuple[set[str], ...]
    """columns to keep after each stage, one set per stage"""
    sources: tuple[tuple[Path, ...], ...]
    """a tuple per stage of the config: the files on which the results of the stage depend, such as weights"""
    left_out: Mapping[str, tuple[LeftOut, ...]] = field(default_factory=dict)
    """benchmark → files of the data set that belong to no image"""
    relations: Mapping[str, Relations] = field(default_factory=dict)
    """benchmark → relations between its labels, for the metric SG-IoU. If relations change, the records stay valid"""
    words: Mapping[str, OwnWords] = field(default_factory=dict)
    """benchmark → the user's words, which have already replaced the classes in the field `benchmarks`"""

    @property
    def vocabularies(self) -> Vocabularies:
        """Return digest → vocabulary, for the vocabularies of all benchmarks and of all few-shot episodes."""
        return {
            vocabulary.digest: vocabulary
            for benchmark in self.benchmarks.values()
            for vocabulary in _vocabularies(benchmark)
        }

    def identity(self) -> dict[str, Any]:
        """Return all settings that change results, as plain data.

        Runs with the same settings may share a folder.
        """
        identity: dict[str, Any] = {
            "stages": [stage.identity() for stage in self.config.stages()],
            "benchmarks": {name: self._benchmark(name) for name in self.benchmarks},
            "weights": [digests.sha256_of(stage_files) for stage_files in self.sources],
            "exact": self.config.exact,
        }
        if self.config.metrics:  # only if set, so that runs of earlier versions can be resumed
            identity["metrics"] = sorted(self.config.metrics)
        return identity

    def card(self, name: str) -> dict[str, Any]:
        """Return the facts about a benchmark that the report needs, such as labels, classes and image selection."""
        benchmark = self.benchmarks[name]
        words = {"words": self.words[name].card(benchmark)} if name in self.words else {}
        return {
            "title": benchmark.title,
            "licence": benchmark.licence,
            "labels": list(benchmark.labels),
            "classes": [list(names) for names in benchmark.vocabulary.classes],
            "index": list(benchmark.index),
            "groups": {group: list(labels) for group, labels in benchmark.groups.items()},
            "selection": self.selections[name].stamp(),
            "left_out": [asdict(file) for file in self.left_out.get(name, ())],
            "unpaired": benchmark.unpaired,
            "asks": benchmark.asks,
            **words,
        }

    def weights(self) -> dict[str, Any]:
        """Return {"weights": list} for the report. The list has the result of `_sources` for each stage with files."""
        return {"weights": [_sources(stage_files) for stage_files in self.sources if stage_files]}

    def _benchmark(self, name: str) -> dict[str, Any]:
        benchmark = self.benchmarks[name]
        reading: dict[str, Any] = {
            "labels": list(benchmark.labels),
            "index": list(benchmark.index),
            "rules": benchmark.rules,
        }
        if benchmark.parts:  # only if set, so that runs of earlier versions can be resumed
            reading["asked"] = {
                part: [vocabulary.digest, list(index)] for part, (vocabulary, index) in benchmark.parts.items()
            }
        if name in self.words:
            reading["words"] = self.words[name].digest
        return {"vocabulary": benchmark.vocabulary.digest, **reading, **self.selections[name].stamp()}


def plan_run(config: RunConfig, out: str) -> RunPlan:
    """Return the plan of a run after checks of names, columns, files and data, in this order.

    Raises OvssError if a check fails.
    """
    folder = RunFolder(_folder(out))
    config = config.model_copy(update={"benchmarks": tuple(map(catalog.absolute, catalog.expanded(config.benchmarks)))})
    config = own_words.with_images(config)
    loaded, words = _benchmarks(config)
    labels = {name: benchmark.labels for name, benchmark in loaded.items()}
    related = relations.read(config.relations, labels) if config.relations else {}
    pools, keeps = _pools(config, folder, images=None)
    for stage in config.stages():
        for name in stage.kind().lists(stage.settings()):
            catalog.load(name)  # raises OvssError for an unknown benchmark, before any image fails for it
    sources = tuple(stage.kind().files(stage.settings()) for stage in config.stages())
    root = "" if all(benchmark.drawn for benchmark in loaded.values()) else layout.data_root(config.data_root)
    if root and not files.is_local(root) and "{" not in root and not files.exists(root):
        private = ". For private data, type: hf auth login" if root.startswith("hf://") else ""
        raise OvssError(f"--data-root {root}: no such bucket or folder. Check the address{private}")
    selections = {
        name: Selection.of(benchmark, config.split, config.ids, config.limit) for name, benchmark in loaded.items()
    }
    listed = {name: manifests.listed(name, benchmark, root, selections[name]) for name, benchmark in loaded.items()}
    tables = {name: manifests.table(name, loaded[name], images) for name, images in listed.items()}
    _check(config, tables)
    pools, keeps = _pools(config, folder, images=sum(map(len, tables.values())))
    left_out = {name: images.left_out for name, images in listed.items()}
    return RunPlan(
        config, folder, loaded, selections, tables, tuple(pools), tuple(keeps), sources, left_out, related, words
    )


def _folder(out: str) -> str:
    """Return the path of the run's folder. Raises OvssError for a relative path in a submitted job."""
    if JOB in os.environ and not ("://" in out or Path(out).expanduser().is_absolute()):
        raise OvssError(
            f"--out {out}: relative path in a submitted job, whose working directory is deleted afterwards. Pass an "
            "absolute path or a URI that every node can access, such as --out /shared/runs/NAME"
        )
    return files.absolute(out)


def _benchmarks(config: RunConfig) -> tuple[dict[str, Benchmark], dict[str, OwnWords]]:
    """Return name → benchmark, and name → the user's own words for benchmarks with such words."""
    if not config.benchmarks:
        raise OvssError("no benchmark: pass --benchmark NAME (see `ovss list`), or set `benchmarks:` in the config")
    folders: dict[str, str] = {}
    for number, name in enumerate(config.benchmarks):
        if files.plain(name) in folders:
            earlier = folders[files.plain(name)]
            raise OvssError(
                f"benchmarks {earlier} and {name} (entry {number}, counted from 0) would share a folder of the "
                "run. List each benchmark once, and give YAML files different names"
            )
        folders[files.plain(name)] = name
    loaded = {name: catalog.load(name) for name in config.benchmarks}
    if without := [name for name, benchmark in loaded.items() if benchmark.instances is None and of_instances(config)]:
        raise OvssError(
            f"the stages of this config need true instances, but {without[0]} has none. Use a benchmark such as "
            "scenes:instances or coco:instances"
        )
    metrics.refuse_unsearched(config.metrics, {name: benchmark.federated for name, benchmark in loaded.items()})
    words = own_words.resolve(config.vocabulary, loaded)
    loaded |= {name: of.applied(loaded[name]) for name, of in words.items()}
    if binary(config):
        loaded = {name: benchmark.for_binary() for name, benchmark in loaded.items()}
    for name, benchmark in loaded.items():
        for vocabulary in _vocabularies(benchmark):
            vocabulary.warn_of_repeated(name)
    return loaded, words


def _check(config: RunConfig, tables: Mapping[str, pa.Table]) -> None:
    """Log all stages' warnings about the images of the run. Raises OvssError if a stage can process no image."""
    for stage in config.stages():
        parts = (batch for table in tables.values() for batch in table.select(["image_id"]).to_batches())
        images = (image for part in parts for image in part.column(0).to_pylist())
        for warning in stage.kind().check(stage.settings(), images):
            logging.getLogger(__name__).warning("%s: %s", stage.use, warning)


def _vocabularies(benchmark: Benchmark) -> list[Vocabulary]:
    return [benchmark.vocabulary, *(vocabulary for vocabulary, _ in benchmark.parts.values())]


def _pools(config: RunConfig, folder: RunFolder, images: int | None) -> tuple[list[Pool], list[set[str]]]:
    """Return all pools, and the columns to keep after each stage. `images`: number of images, or None if unknown."""
    save = None
    if config.keep_predictions != "none":
        every = math.ceil((images or 1) / KEPT) if config.keep_predictions == "auto" else 1
        save = StageConfig(use="save", options={"folder": folder.uri, "every": every})
    pools = complete(config, save)
    stages = [stage for pool in pools for stage in pool.stages]
    recorded = {*records.METRICS, *config.metrics, *records.DIGESTS}
    measured = {name for stage in stages for name in stage.writes()} & recorded
    main = {metrics.MAIN} if predicts(config) else set()
    keeps = execution.plan(stages, MANIFEST, {*MANIFEST, *main, *measured})
    return pools, [keep | {"seconds"} for keep in keeps]


def _sources(stage_files: tuple[Path, ...]) -> dict[str, Any]:
    """Return name and sha256 of a stage's files for the report, and whether a file has fake weights."""
    name = str(stage_files[0]) if len(stage_files) == 1 else f"{len(stage_files)} files such as {stage_files[0]}"
    return {"file": name, "sha256": digests.sha256_of(stage_files), "fake": any(map(zoo.is_fake, stage_files))}
