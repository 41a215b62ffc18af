"""Complete a config with the required stages that it does not name: decode, truth, instances, measure and save."""

from collections.abc import Sequence
from typing import Any

from ovss_ray import metrics
from ovss_ray.config.run import Pool, RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import MANIFEST, TRUE
from ovss_ray.structures.words import WORDS


def complete(config: RunConfig, save: StageConfig | None = None) -> list[Pool]:
    """Return the config's pools with the required stages that the config does not name.

    - `decode` comes first. It is added if pixels, image sizes, true instances or words of single images are needed.
    - `instances` comes before the first stage that reads true instances.
    - `truth` comes before the first stage that reads the column `truth`; without such a stage, before `measure`.
      `truth` is added if the run predicts label maps, or if a stage or metric reads the column.
    - `measure` comes after all stages of the config.
    - `save` comes last. It is added if the argument `save` is set and the run predicts label maps.

    Raises OvssError if a user's metric reads a column that no stage writes. Also raises OvssError if the config sets
    options of `measure`.
    """
    named = {stage.use for stage in config.stages()}
    reads = {name for stage in config.stages() for name in stage.reads()}
    read_by_own_metrics = {name for metric in metrics.load_own(config.metrics) for name in metric.reads}
    pools = list(config.pools)
    tail = [] if "measure" in named else [StageConfig(use="measure")]
    if "instances" not in named and of_instances(config):
        pools = _before(pools, StageConfig(use="instances"))
    if "truth" not in named and (predicts(config) or "truth" in reads | read_by_own_metrics):
        truth = StageConfig(use="truth", options=_square(config))
        if "truth" in reads:
            pools = _before(pools, truth)
        else:
            tail.insert(0, truth)
    if save and "save" not in named and predicts(config):
        tail.append(save)
    of_pixels = of_instances(config) or gives_words(config) or (reads | read_by_own_metrics) & {"image", "size"}
    if of_pixels and "decode" not in named:
        pools.insert(0, Pool(stages=(StageConfig(use="decode"),)))
    return _with_metrics([*pools, Pool(stages=tuple(tail))] if tail else pools, config)


def binary(config: RunConfig) -> bool:
    """Return whether a stage of the config segments one class at a time (see Stage.binary)."""
    return any(stage.kind().binary for stage in config.stages())


def gives_words(config: RunConfig) -> bool:
    """Return whether a stage gives each image its own words."""
    return any(stage.gives_words() for stage in config.stages())


def of_instances(config: RunConfig) -> bool:
    """Return whether a stage reads the true instances of an image."""
    instances = {*TRUE, "image_number"}
    return any(instances & set(stage.reads()) for stage in config.stages())


def predicts(config: RunConfig) -> bool:
    """Return whether a run predicts label maps, which is the default.

    A run predicts none if a stage reads true instances, or exports files for later use (see Stage.exports). But a run
    in which a stage writes the column `prediction` always predicts label maps.
    """
    other = of_instances(config) or any(stage.kind().exports for stage in config.stages())
    return not other or any("prediction" in stage.writes() for stage in config.stages())


def _square(config: RunConfig) -> dict[str, int]:
    """Return the options of the stage `truth`: {"side": n} if a stage predicts label maps of n × n pixels, else {}.

    Stage.side returns n. Only stages with `binary = True` are considered.
    """
    sides = [stage.kind().side(stage.settings()) for stage in config.stages() if stage.kind().binary]
    return next(({"side": side} for side in sides if side), {})


def _before(pools: Sequence[Pool], stage: StageConfig) -> list[Pool]:
    """Return the pools with `stage` inserted directly before the first stage that reads a column written by `stage`."""
    columns = set(stage.writes())
    placed: list[Pool] = []
    for i, pool in enumerate(pools):
        for j, reader in enumerate(pool.stages):
            if columns & set(reader.reads()):
                stages = (*pool.stages[:j], stage, *pool.stages[j:])
                return [*placed, pool.model_copy(update={"stages": stages}), *pools[i + 1 :]]
        placed.append(pool)
    return placed


def _with_metrics(pools: Sequence[Pool], config: RunConfig) -> list[Pool]:
    """Return the pools, with the options of the stage `measure` set (see actors.measure).

    The option `metrics` lists the metrics of the config, and each metric of metrics.regular that can be measured. A
    metric can be measured if the manifest or earlier stages provide all columns that the metric reads. If the run
    predicts label maps, metrics.MAIN is also listed. If images have their own words, no regular metric that reads
    `scores` is listed.
    """
    columns = set(MANIFEST)
    settled = []
    for pool in pools:
        stages = []
        for stage in pool.stages:
            stages.append(_measuring(stage, columns, config) if stage.use == "measure" else stage)
            columns |= set(stages[-1].writes())
        settled.append(pool.model_copy(update={"stages": tuple(stages)}))
    return settled


def _measuring(stage: StageConfig, columns: set[str], config: RunConfig) -> StageConfig:
    if stage.options:
        raise OvssError("the stage `measure` takes no options; list your metrics under `metrics:` in the config")
    own_metrics = metrics.load_own(config.metrics)
    for metric in own_metrics:
        if missing := set(metric.reads) - columns:
            raise OvssError(
                f"metric {metric.name!r} needs columns {sorted(missing)}, which no stage before `measure` "
                f"writes; available: {sorted(columns)}"
            )
    main = {metrics.MAIN} if predicts(config) else set()
    usable = columns - ({"scores"} if WORDS in columns else set())  # scores of words, not of the benchmark's classes
    possible = [metric for metric in metrics.regular() if metric.name in main or set(metric.reads) <= usable]
    options: dict[str, Any] = {"metrics": [metric.name for metric in (*possible, *own_metrics)]}
    options |= {"binary": True} if binary(config) else {}
    return StageConfig(use="measure", options=options | ({"words": True} if WORDS in columns else {}))
