"""The config of a run: typed, frozen, from YAML with `extends` and `--set`. Checked before anything is started."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ovss_ray import explain, files, strict_yaml
from ovss_ray.errors import OvssError, nearest
from ovss_ray.limits import Limits
from ovss_ray.stage import Config, Stage, StageConfig

Auto = Literal["auto"]


class Pool(Config):
    """WHERE it runs: workers that each hold the same stages. Stages of one pool hand over in memory.

    "auto" is decided by what the cluster has (see placement.place): with GPUs one worker per GPU and batches of 8,
    without them one worker per processor, which does the light work too, and single images. None of it is part of the
    digest of a run, which may go on elsewhere.
    """

    stages: tuple[StageConfig, ...] = Field(min_length=1)
    workers: int | tuple[int, int] | Auto = "auto"
    """how many, or the least and the most"""
    cpus: float | Auto = "auto"
    """processors of one worker, and so the threads that it uses"""
    gpus: float | Auto = "auto"
    """GPUs of one worker; "auto" is one if the cluster has any and a stage can use it"""
    batch: Annotated[int, Field(ge=1)] | Auto = "auto"
    """images that a worker is given at once, and loses if it dies"""

    @model_validator(mode="after")
    def _some_workers(self) -> "Pool":
        least, most = self.workers if isinstance(self.workers, tuple) else (1, self.workers)
        if least < 1 or (isinstance(most, int) and most < least):
            raise ValueError(f"workers: {self.workers} is not possible; write a number from 1, [least, most] or auto")
        return self


class RunConfig(Config):
    """Everything that a run is asked to do."""

    benchmarks: tuple[str, ...] = ()
    """such as camvid, ade20k:847 or folder:my.yaml"""
    data_root: str | None = None
    """the folder of the data sets, or of one; default $OVSS_DATA"""
    split: str | None = None
    """another split than the benchmark's own"""
    ids: str | None = None
    """a text file of image ids, one a line: only these are done"""
    limit: int | None = Field(default=None, ge=1)
    """only the first so many, in the order of their ids"""
    pools: tuple[Pool, ...] = Field(min_length=1)
    keep_predictions: Literal["auto", "all", "none"] = "auto"
    """write label maps into the run's folder: auto is all of them up to 10,000 images, then a fixed sample"""
    exact: bool = False
    """bit-identical records at the price of speed: one image per forward, one thread, deterministic kernels"""
    check: bool = True
    """look at a few label files first (see `ovss check`), and do not start if none of them is right"""
    max_errors: int = Field(default=100, ge=0)
    """images that may fail before the run is stopped: the trouble is then not in the images"""
    max_deaths: int = Field(default=10, ge=0)
    """workers that may die one after another, without an image being finished in between, before the run is stopped"""
    deadline: float = Field(default=600.0, gt=0)
    """seconds that a batch may take in one pool; then its worker is ended, and its images are tried one by one"""
    limits: Limits = Limits()
    """what one request to the online service may ask for (`ovss serve`); batch runs do not look at it"""

    def stages(self) -> list[StageConfig]:
        """All stages of all pools, in order."""
        return [stage for pool in self.pools for stage in pool.stages]


def load(file: str | Path, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a config: the file on top of what it `extends`, then the `given` keys, then `key.sub=value` overrides.

    The first word of an override may also be a stage: `san.weights=PATH` sets that option of every stage `san`.
    Raises OvssError that names the path and the nearest known name for every fault found.
    """
    raw = {**read(Path(file)), **(given or {})}
    for override in overrides:
        raw = _override(raw, override)
    return check(raw, str(file))


def load_all(
    file: str | Path, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> dict[str, RunConfig]:
    """Read a config, or the several that one sets side by side: name → config.

    `compare: [NAME, …]` names configs beside the file; what else stands in it goes on top of each. An override goes to
    those that have what it changes. Raises OvssError as `load` does.
    """
    return _checked(_raws(file, given), overrides)


def load_several(files: Iterable[str | Path], overrides: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Read the configs that stand side by side in one service: name → config; see load_all. Raises OvssError."""
    raws: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in files:
        found = _raws(file, None)
        if twice := set(raws) & set(found):
            raise OvssError(f"{file}: there are two configs called {twice.pop()!r}. Give one file another name")
        raws |= found
    return _checked(raws, overrides)


def _raws(file: str | Path, given: Mapping[str, Any] | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """The configs of a file by name, not checked yet, each with its source for errors."""
    own = read(Path(file))
    names = own.pop("compare", None)
    if names is None:
        return {Path(file).stem: (str(file), {**own, **(given or {})})}
    if not isinstance(names, list) or len(set(map(str, names))) < max(2, len(names)):
        raise OvssError(f"{file}: compare: two names of configs at least, no name twice, are expected, not {names!r}")
    return {
        str(name): (f"{file}: {name}", {**read(Path(file).parent / f"{name}.yaml"), **own, **(given or {})})
        for name in names
    }


def _checked(raws: Mapping[str, tuple[str, dict[str, Any]]], overrides: Sequence[str]) -> dict[str, RunConfig]:
    """Configs with overrides, each of which goes to those that have what it changes."""
    made = {name: raw for name, (_, raw) in raws.items()}
    for override in overrides:
        named = {name for name, raw in made.items() if _has(raw, override)} or set(made)
        made = {name: _override(raw, override) if name in named else raw for name, raw in made.items()}
    return {name: check(made[name], source) for name, (source, _) in raws.items()}


def _has(raw: Mapping[str, Any], override: str) -> bool:
    """Whether an override changes a key that every config has, or an option of a stage that this one has."""
    first = override.partition("=")[0].partition(".")[0]
    return first in RunConfig.model_fields or any(override.startswith(f"{use}.") for _, use in _stage_paths(raw))


def read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file and what it extends into one plain dict; a list takes the place of a list.

    What stands under `set` changes single entries of all that, as --set does: `set: {alpha_clip.fit: center_crop}`.
    """
    if file.resolve() in seen:
        raise OvssError(f"{file}: extends itself by way of {' → '.join(str(path) for path in seen)}")
    own = parse(files.read(file), str(file))
    base, changes = own.pop("extends", None), own.pop("set", {})
    if not isinstance(changes, dict):
        raise OvssError(f"{file}: set: a mapping such as {{alpha_clip.fit: center_crop}} is expected, not {changes!r}")
    made = own if base is None else _over(read(file.parent / str(base), (*seen, file.resolve())), own)
    for path, value in changes.items():
        made = _change(made, str(path), value, f"{file}: set: {path}")
    return made


def parse(data: bytes | str, source: str) -> dict[str, Any]:
    """Read the YAML of one config; `source` is its name in errors. Raises OvssError."""
    found = strict_yaml.load(data, source)
    if not isinstance(found, dict):
        raise OvssError(f"{source}: a mapping such as `benchmarks: [camvid]` is expected, not {type(found).__name__}")
    return found


def _over(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise OvssError(f"--set {override}: write it as KEY.SUB=VALUE, such as pools.0.batch=4 or san.precision=bf16")
    value = strict_yaml.load(text, f"--set {override}")
    if isinstance(value, str) and text.strip()[0] not in "\"'|>":
        value = text.strip()  # as it was typed: in "data #1" no comment begins
    return _change(raw, path, value, f"--set {override}")


def _change(raw: dict[str, Any], path: str, value: Any, source: str) -> dict[str, Any]:
    """Put a value at a dotted path, or into the option of every stage that the path begins with."""
    steps = path.split(".")
    stages = [(at, path.removeprefix(f"{use}.")) for at, use in _stage_paths(raw) if path.startswith(f"{use}.")]
    options = [[*at, "options", *rest.split(".")] for at, rest in stages]
    targets = options if steps[0] not in RunConfig.model_fields else [steps]
    for target in targets or [steps]:
        raw = _put(raw, target, value, source)
    return raw


def _stage_paths(raw: Mapping[str, Any]) -> Iterator[tuple[list[str], str]]:
    """Where the stages of a config lie that has not been checked yet, and their names."""
    pools = raw.get("pools")
    for i, pool in enumerate(pools if isinstance(pools, list) else ()):
        stages = pool.get("stages") if isinstance(pool, dict) else None
        for j, stage in enumerate(stages if isinstance(stages, list) else ()):
            if isinstance(stage, dict) and isinstance(stage.get("use"), str):
                yield ["pools", str(i), "stages", str(j)], stage["use"]


def _put(where: Any, path: list[str], value: Any, source: str) -> Any:
    """Return `where` with the value put at the path; the numbers of a path count list entries from 0."""
    if not path:
        return value
    if isinstance(where, list):
        if not path[0].isdigit() or int(path[0]) >= len(where):
            raise OvssError(f"{source}: {path[0]!r} is no entry of a list of {len(where)}; they count from 0")
        return [_put(v, path[1:], value, source) if i == int(path[0]) else v for i, v in enumerate(where)]
    if not isinstance(where, dict | None):
        raise OvssError(f"{source}: {path[0]!r} lies below {where!r}, which has nothing below it")
    inside = where or {}
    return {**inside, path[0]: _put(inside.get(path[0]), path[1:], value, source)}


def check(raw: Mapping[str, Any], source: str) -> RunConfig:
    """Make a RunConfig of plain data, the options of every stage checked too. Raises OvssError with all faults."""
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as failure:
        raise OvssError(_explain(failure, raw, RunConfig, source)) from failure
    pools = [_settled(pool, f"pools.{i}", config.exact, source) for i, pool in enumerate(config.pools)]
    return config.model_copy(update={"pools": tuple(pools)})


def _settled(pool: Pool, path: str, exact: bool, source: str) -> Pool:
    """Write the run's `exact` into the options of every stage that knows it, and check all options."""
    stages = []
    for i, stage in enumerate(pool.stages):
        try:
            kind: type[Stage] = stage.kind()
        except OvssError as failure:
            raise OvssError(f"{source}: {path}.stages.{i}: {failure}") from failure
        options = {**stage.options, "exact": True} if exact and "exact" in kind.Config.model_fields else stage.options
        try:
            settings = kind.Config(**options)
        except ValidationError as failure:
            where = f"{path}.stages.{i}.options."
            raise OvssError(_explain(failure, options, kind.Config, source, where)) from failure
        stages.append(StageConfig(use=stage.use, options=settings.model_dump(mode="json", exclude_defaults=True)))
    return pool.model_copy(update={"stages": tuple(stages)})


def _explain(
    failure: ValidationError, raw: Mapping[str, Any], model: type[Config], source: str, prefix: str = ""
) -> str:
    def offer(place: Sequence[int | str]) -> str:
        return nearest(str(place[-1]), _fields(model, place[:-1]))

    return f"{source}: " + "; ".join(explain.faults(failure, raw, offer, prefix))


def _fields(model: type[Config], path: Iterable[int | str]) -> list[str]:
    """The names that would have been known at a path of the config."""
    known: dict[str, type[Config]] = {"pools": Pool, "stages": StageConfig, "limits": Limits}
    for step in path:
        model = known.get(str(step), model)
    return list(model.model_fields)


def dump(config: RunConfig) -> str:
    """Write a config as YAML that `load` reads back to the same value."""
    return yaml.safe_dump(
        json.loads(config.model_dump_json(exclude_defaults=True)), sort_keys=False, allow_unicode=True
    )
