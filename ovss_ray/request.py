"""What a run has been asked to do, checked and made concrete before Ray is started."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ovss_ray import files, pipeline, placement, records, weights
from ovss_ray import manifest as manifests
from ovss_ray.columns import MANIFEST
from ovss_ray.config import Pool, RunConfig
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.errors import OvssError
from ovss_ray.listing import LeftOut
from ovss_ray.manifest import Selection
from ovss_ray.run_folder import RunFolder
from ovss_ray.stage import StageConfig
from ovss_ray.vocabulary import Vocabularies, Vocabulary

KEPT = 10_000
"""Label maps that `keep_predictions: auto` writes at most, about."""


@dataclass(frozen=True)
class Request:
    """A run in full: what is asked, of which images, by which pools, into which folder."""

    config: RunConfig
    folder: RunFolder
    benchmarks: Mapping[str, Benchmark]
    selections: Mapping[str, Selection]
    manifests: Mapping[str, pa.Table]
    pools: tuple[Pool, ...]
    keeps: tuple[set[str], ...]
    """for each stage of the pools, the columns that are needed after it"""
    sources: tuple[tuple[Path, ...], ...]
    """for each stage of the config, the files that decide its answers, such as weights"""
    left_out: Mapping[str, tuple[LeftOut, ...]] = field(default_factory=dict)
    """benchmark → files of the data set that no image is made of"""

    @property
    def vocabularies(self) -> Vocabularies:
        """Digest → vocabulary, of all benchmarks and of the parts of images that have their own."""
        return {asked.digest: asked for one in self.benchmarks.values() for asked in _vocabularies(one)}

    def identity(self) -> dict[str, Any]:
        """Everything that changes answers, as plain data (design §7): two runs with one identity may share a folder."""
        return {
            "stages": [_identity(stage) for stage in self.config.stages()],
            "benchmarks": {name: self._benchmark(name) for name in self.benchmarks},
            "weights": [weights.sha256_of(some) for some in self.sources],
            "exact": self.config.exact,
        }

    def card(self, name: str) -> dict[str, Any]:
        """What the report has to know of a benchmark."""
        one = self.benchmarks[name]
        return {
            "title": one.title,
            "licence": one.licence,
            "labels": list(one.labels),
            "groups": {group: list(labels) for group, labels in one.groups.items()},
            "selection": self.selections[name].stamp(),
            "left_out": [asdict(some) for some in self.left_out.get(name, ())],
            "unpaired": one.unpaired,
        }

    def weights(self) -> dict[str, Any]:
        """The files that decide answers, for the report: names, digests, and whether the values are made up."""
        return {"weights": [_sources(some) for some in self.sources if some]}

    def _benchmark(self, name: str) -> dict[str, Any]:
        one = self.benchmarks[name]
        reading: dict[str, Any] = {"labels": list(one.labels), "index": list(one.index), "rules": one.rules}
        if one.asked:  # left out else, so that a run which knew nothing of parts goes on
            reading["asked"] = {part: [own.digest, list(index)] for part, (own, index) in one.asked.items()}
        return {"vocabulary": one.vocabulary.digest, **reading, **self.selections[name].stamp()}


def resolve(config: RunConfig, out: str) -> Request:
    """Check names, columns, files and data, in this order, and list the images. Raises OvssError for a fault."""
    folder = RunFolder(_folder(out))
    config = config.model_copy(update={"benchmarks": tuple(map(_absolute, config.benchmarks))})
    loaded = _benchmarks(config)
    pools, keeps = _pools(config, folder, images=None)
    sources = tuple(stage.kind().files(stage.settings()) for stage in config.stages())
    root = "" if all(one.drawn for one in loaded.values()) else benchmarks.data_root(config.data_root)
    selections = {name: Selection.of(config, one) for name, one in loaded.items()}
    listed = {name: manifests.listed(name, one, root, selections[name]) for name, one in loaded.items()}
    tables = {name: manifests.table(name, loaded[name], some) for name, some in listed.items()}
    pools, keeps = _pools(config, folder, images=sum(map(len, tables.values())))
    left_out = {name: some.left_out for name, some in listed.items()}
    return Request(config, folder, loaded, selections, tables, tuple(pools), tuple(keeps), sources, left_out)


def _folder(out: str) -> str:
    """The address of the run's folder. Raises OvssError for a relative one in a submitted job: it would be lost."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not ("://" in out or Path(out).expanduser().is_absolute()):
        raise OvssError(
            f"--out {out}: a submitted job runs in a folder of the cluster's own, which is thrown away. Give an "
            "absolute path or an address that every node sees, such as --out /shared/runs/NAME"
        )
    return files.absolute(out)


def _benchmarks(config: RunConfig) -> dict[str, Benchmark]:
    if not config.benchmarks:
        raise OvssError(
            "no benchmark was named. Add --benchmark NAME (see `ovss list`), or `benchmarks:` in the config"
        )
    folders: dict[str, str] = {}
    for number, name in enumerate(config.benchmarks):
        if files.plain(name) in folders:
            other = folders[files.plain(name)]
            raise OvssError(
                f"{other} and {name} (number {number}) would share a folder of the run. Name each data set once"
            )
        folders[files.plain(name)] = name
    loaded = {name: benchmarks.load(name) for name in config.benchmarks}
    for name, one in loaded.items():
        for vocabulary in _vocabularies(one):
            vocabulary.warn_of_repeated(name)
    return loaded


def _vocabularies(benchmark: Benchmark) -> list[Vocabulary]:
    return [benchmark.vocabulary, *(vocabulary for vocabulary, _ in benchmark.asked.values())]


def _pools(config: RunConfig, folder: RunFolder, images: int | None) -> tuple[list[Pool], list[set[str]]]:
    """All pools, and per stage the columns that are needed after it."""
    save = None
    if config.keep_predictions != "none":
        every = math.ceil((images or 1) / KEPT) if config.keep_predictions == "auto" else 1
        save = StageConfig(use="save", options={"folder": folder.uri, "every": every})
    pools = placement.complete(config, save)
    stages = [stage for pool in pools for stage in pool.stages]
    kept = {*records.METRICS, *records.DIGESTS}
    measured = {name for stage in stages for name in stage.kind().writes} & kept
    keeps = pipeline.plan(stages, MANIFEST, {*MANIFEST, "confusion", *measured})
    return pools, [keep | {"seconds"} for keep in keeps]


def _absolute(benchmark: str) -> str:
    """folder:my.yaml → folder:/here/my.yaml: workers have another working directory."""
    family, colon, rest = benchmark.partition(":")
    return f"{family}:{files.absolute(rest)}" if family == "folder" and rest else family + colon + rest


def _sources(some: tuple[Path, ...]) -> dict[str, Any]:
    """The files of one stage: the only one by its name, many by their number."""
    name = str(some[0]) if len(some) == 1 else f"{len(some)} files such as {some[0]}"
    return {"file": name, "sha256": weights.sha256_of(some), "fake": any(map(weights.is_fake, some))}


def _identity(stage: StageConfig) -> dict[str, Any]:
    """A stage by what it computes: all its options with their defaults, but for those that only say where."""
    options = stage.settings().model_dump(mode="json", exclude=set(stage.kind().where))
    return {"use": stage.use, "options": options}
