"""Reader of configs: converts YAML files and `--set` options to typed, frozen settings.

All settings are validated before a run starts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ovss_ray import metrics
from ovss_ray.config.limits import Limits
from ovss_ray.config.run import Pool, RunConfig, WaitFor
from ovss_ray.config.word_list import WordList
from ovss_ray.errors import OvssError, nearest
from ovss_ray.io import files, strict_yaml, validation
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures.settings import Settings


def load(file: str | Path, overrides: Sequence[str] = (), keys: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a config file, apply `keys` and then `overrides`, and return the validated config.

    `keys`: top-level key → new value. `overrides`: changes such as "limits.seconds=60". The override "san.weights=PATH"
    sets `weights` of every stage `san`. Raises OvssError for an invalid config. The message names the invalid keys.
    """
    raw = {**read(Path(file)), **(keys or {})}
    for override in overrides:
        raw = _override(raw, override)
    return validate(raw, str(file))


def load_all(
    file: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), keys: Mapping[str, Any] | None = None
) -> dict[str, RunConfig]:
    """Return config name → config. For `keys` and `overrides`, see `load`.

    If `file` has no key `compare`, the result has one config. The name of this config is the name of the file without
    its ending. If `file` is a mapping, the name is "config".

    If `file` has the key `compare: [NAME, …]`, the result has each config NAME.yaml in the folder of `file`. All other
    keys of `file` are set in each of these configs. An override of a stage's option changes only the configs with this
    stage. Raises OvssError for an invalid config.
    """
    # The override `compare=[NAME,…]` replaces the list of names, so it is applied before the configs are read.
    lists = [] if isinstance(file, Mapping) else [change for change in overrides if change.startswith("compare=")]
    return _checked(_raws(file, keys, lists), [change for change in overrides if change not in lists])


def load_several(files: Iterable[str | Path], overrides: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Return config name → config for several files. For a file with the key `compare`, see `load_all`.

    Raises OvssError if two configs have the same name, or if a config is invalid.
    """
    raws: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in files:
        configs = _raws(file, None)
        if repeated := set(raws) & set(configs):
            raise OvssError(
                f"{file}: two configs have the name {repeated.pop()!r}, one from this file and one from an earlier "
                "file. The name of a config is the name of its YAML file. Rename one of the two YAML files"
            )
        raws |= configs
    return _checked(raws, overrides)


def _raws(
    file: str | Path | Mapping[str, Any], keys: Mapping[str, Any] | None, lists: Sequence[str] = ()
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return config name → (source, config before validation).

    The source is the text with which error messages begin, such as "both.yaml: san". `lists`: overrides such
    as "compare=[san,scan]", which replace the list of config names in the file.
    """
    if isinstance(file, Mapping):
        return {"config": ("config", {**file, **(keys or {})})}
    raw = read(Path(file))
    for override in lists:
        raw = _override(raw, override)
    names = raw.pop("compare", None)
    if names is None:
        return {Path(file).stem: (str(file), {**raw, **(keys or {})})}
    if not isinstance(names, list) or len(set(map(str, names))) < max(2, len(names)):
        raise OvssError(f"{file}: compare: expected a list of at least two different config names, found {names!r}")
    return {
        str(name): (f"{file}: {name}", {**read(Path(file).parent / f"{name}.yaml"), **raw, **(keys or {})})
        for name in names
    }


def _checked(raws: Mapping[str, tuple[str, dict[str, Any]]], overrides: Sequence[str]) -> dict[str, RunConfig]:
    """Apply overrides to the configs of `_raws`, and return the validated configs."""
    configs = {name: raw for name, (_, raw) in raws.items()}
    for override in overrides:
        # An override of a stage's option applies to the configs with this stage. All others apply to every config.
        named = {name for name, raw in configs.items() if _has(raw, override)} or set(configs)
        configs = {name: _override(raw, override) if name in named else raw for name, raw in configs.items()}
    return {name: validate(configs[name], source) for name, (source, _) in raws.items()}


def _has(raw: Mapping[str, Any], override: str) -> bool:
    """Return whether an override begins with a field of RunConfig, or with the name of a stage that `raw` contains."""
    first = override.partition("=")[0].partition(".")[0]
    return first in RunConfig.model_fields or any(override.startswith(f"{use}.") for _, use in _stage_paths(raw))


def read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file as a dict, and apply the keys `extends` and `set` of the file.

    `extends` names a file with default settings. `set` changes single settings, such as {alpha_clip.fit: center_crop}.
    `seen`: files that extend this file. Raises OvssError for an invalid file, and for a file that extends itself.
    """
    if file.resolve() in seen:
        raise OvssError(
            f"{file}: extends itself. The chain of files is {' → '.join(str(path) for path in seen)}. Remove `extends` "
            "from one of these files"
        )
    raw = parse(files.read(file), str(file))
    base, changes = raw.pop("extends", None), raw.pop("set", {})
    if not isinstance(changes, dict):
        raise OvssError(f"{file}: set: expected a mapping such as `alpha_clip.fit: center_crop`, found {changes!r}")
    merged = raw if base is None else _over(read(file.parent / str(base), (*seen, file.resolve())), raw)
    for path, value in changes.items():
        merged = _change(merged, str(path), value, f"{file}: set: {path}")
    return merged


def parse(data: bytes | str, source: str) -> dict[str, Any]:
    """Read a config from YAML.

    Raises OvssError if the YAML is invalid, or if the YAML is not a mapping. The error message begins with `source`.
    """
    raw = strict_yaml.load(data, source)
    if not isinstance(raw, dict):
        raise OvssError(f"{source}: expected a mapping such as `benchmarks: [camvid]`, found {type(raw).__name__}")
    return raw


def _over(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested dict `base` with `changes` merged into it. Values that are not dicts are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise OvssError(f"--set {override}: expected KEY.SUB=VALUE, such as pools.0.batch=4 or san.precision=bf16")
    value = strict_yaml.load(text, f"--set {override}")
    if isinstance(value, str) and text.strip()[0] not in "\"'|>":
        value = text.strip()  # as typed: for YAML, a comment begins in "data #1"
    return _change(raw, path, value, f"--set {override}")


def _change(raw: dict[str, Any], path: str, value: Any, source: str) -> dict[str, Any]:
    """Return the config with a new value at a dotted path, such as limits.seconds.

    The path san.weights sets the option `weights` of every stage `san`.
    """
    steps = path.split(".")
    stages = [(at, path.removeprefix(f"{use}.")) for at, use in _stage_paths(raw) if path.startswith(f"{use}.")]
    options = [[*at, "options", *rest.split(".")] for at, rest in stages]
    targets = options if steps[0] not in RunConfig.model_fields else [steps]
    for target in targets or [steps]:
        raw = _put(raw, target, value, source)
    return raw


def _stage_paths(raw: Mapping[str, Any]) -> Iterator[tuple[list[str], str]]:
    """Yield path and name of each stage in a config that is not validated yet."""
    pools = raw.get("pools")
    for i, pool in enumerate(pools if isinstance(pools, list) else ()):
        stages = pool.get("stages") if isinstance(pool, dict) else None
        for j, stage in enumerate(stages if isinstance(stages, list) else ()):
            if isinstance(stage, dict) and isinstance(stage.get("use"), str):
                yield ["pools", str(i), "stages", str(j)], stage["use"]


def _put(node: Any, path: list[str], value: Any, source: str) -> Any:
    """Return `node` with the value set at the path. Numbers in a path are indices into lists, from 0."""
    if not path:
        return value
    if isinstance(node, list):
        if not path[0].isdigit() or int(path[0]) >= len(node):
            raise OvssError(
                f"{source}: {'.'.join(path)!r} must begin with the index of a list entry, counted from 0, but it "
                f"begins with {path[0]!r}. The list has this number of entries: {len(node)}. Use the index of an entry"
            )
        return [_put(v, path[1:], value, source) if i == int(path[0]) else v for i, v in enumerate(node)]
    if not isinstance(node, dict | None):
        raise OvssError(
            f"{source}: cannot set {path[0]!r} inside the plain value {node!r}, which has no keys. Remove "
            f"{'.' + '.'.join(path)!r} from the end of the key"
        )
    inside = node or {}
    return {**inside, path[0]: _put(inside.get(path[0]), path[1:], value, source)}


def validate(raw: Mapping[str, Any], source: str) -> RunConfig:
    """Convert a dict to a RunConfig, and validate all stage options.

    Raises OvssError for an invalid config. The message begins with `source`. If the config has several faults, the
    message may name only some of the faults.
    """
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as failure:
        raise OvssError(_explain(failure, raw, RunConfig, source)) from failure
    try:
        metrics.load_own(config.metrics)
    except OvssError as failure:
        raise OvssError(f"{source}: metrics: {failure}") from failure
    pools = [_settled(pool, f"pools.{i}", config.exact, source) for i, pool in enumerate(config.pools)]
    return config.model_copy(update={"pools": tuple(pools)})


def _settled(pool: Pool, path: str, exact: bool, source: str) -> Pool:
    """Return a pool with validated stage options. If `exact` is True, stages with an option `exact` get exact=True."""
    stages = []
    for i, stage in enumerate(pool.stages):
        where = f"{path}.stages.{i}"
        try:
            kind: type[Stage] = stage.kind()
        except OvssError as failure:
            raise OvssError(f"{source}: {where}: {failure}") from failure
        options = {**stage.options, "exact": True} if exact and "exact" in kind.Config.model_fields else stage.options
        try:
            settings = kind.Config(**options)
        except ValidationError as failure:
            raise OvssError(_explain(failure, options, kind.Config, source, f"{where}.options.")) from failure
        stages.append(StageConfig(use=stage.use, options=settings.model_dump(mode="json", exclude_defaults=True)))
    return pool.model_copy(update={"stages": tuple(stages)})


def _explain(
    failure: ValidationError, raw: Mapping[str, Any], model: type[Settings], source: str, prefix: str = ""
) -> str:
    def offer(place: Sequence[int | str]) -> str:
        return nearest(str(place[-1]), _fields(model, place[:-1]))

    return f"{source}: " + "; ".join(validation.faults(failure, raw, offer, prefix))


def _fields(model: type[Settings], path: Iterable[int | str]) -> list[str]:
    """Return the valid keys at `path`, such as ("pools", 0). `model`: class of the settings in which `path` begins."""
    known: dict[str, type[Settings]] = {
        "pools": Pool,
        "stages": StageConfig,
        "limits": Limits,
        "vocabulary": WordList,
        "wait_for": WaitFor,
    }
    for step in path:
        model = known.get(str(step), model)
    return list(model.model_fields)


def dump(config: RunConfig) -> str:
    """Return a config as YAML. `load` reads it back as an equal config."""
    return yaml.safe_dump(
        json.loads(config.model_dump_json(exclude_defaults=True)), sort_keys=False, allow_unicode=True
    )
