"""Plans of requested runs, from a config that is passed as a name, a file, a mapping or a RunConfig."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ovss_ray.config import loading, word_list
from ovss_ray.config.run import RunConfig
from ovss_ray.config.shipped import find_config
from ovss_ray.config.word_list import WordList
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.runs.plan import RunPlan, plan_run
from ovss_ray.structures.vocabulary import Vocabulary

Source = str | Path | Mapping[str, Any] | RunConfig
"""Name of a shipped config, path of a YAML file, mapping with the keys of such a file, or RunConfig."""
Overrides = Sequence[str] | Mapping[str, Any]
"""Changes of a config: a list such as ["san.precision=bf16"], or a mapping such as {"san.precision": "bf16"}."""
Words = str | Path | Vocabulary | Sequence[str | Sequence[str]] | Mapping[str, Any]
"""The user's class names for all benchmarks; or a dict from names of benchmarks to the class names for each.

Class names are a file, a Vocabulary, a list of names, or a dict such as {"names": ["car"]} with fields of WordList."""
_DOCUMENT_END = "...\n"


def plan_runs(
    source: Source, out: str | Path | None, overrides: Overrides, settings: Mapping[str, Any]
) -> dict[str, RunPlan]:
    """Return config name → plan. A source with the key `compare` has several configs.

    `settings`: key of the config → value, or None for no change. `out`: output folder. If `out` is None, the output
    folder is in runs/ (see `_default_folder`). If there are several configs, each run has a subfolder of the output
    folder, named like the config. Raises OvssError if a config is invalid or a check fails.
    """
    present = {key: value for key, value in settings.items() if value is not None}
    keys = {key: str(value) if isinstance(value, Path) else value for key, value in present.items()}
    if "vocabulary" in keys:
        keys["vocabulary"] = word_list.listed(keys["vocabulary"])
    if isinstance(keys.get("benchmarks"), str):
        keys["benchmarks"] = [keys["benchmarks"]]
    configs = _configs(source, overrides, keys)
    folder = str(out or _default_folder(source, configs))
    folders = {name: files.join(folder, name) if len(configs) > 1 else folder for name in configs}
    return {name: plan_run(config, folders[name]) for name, config in configs.items()}


def _configs(source: Source, overrides: Overrides, keys: Mapping[str, Any]) -> dict[str, RunConfig]:
    """Return name → config with all changes. A source with the key `compare` has several configs.

    `keys`: top-level keys of the config with new values, such as {"limit": 10}.
    """
    if isinstance(overrides, str):
        raise OvssError(f"overrides: a list such as [{overrides!r}] or a mapping is expected, not {overrides!r}")
    written = [_written(key, overrides[key]) for key in overrides] if isinstance(overrides, Mapping) else overrides
    if isinstance(source, RunConfig):
        source = source.model_dump(mode="json", exclude_defaults=True)
    return loading.load_all(source if isinstance(source, Mapping) else find_config(str(source)), written, keys)


def _default_folder(source: Source, configs: Mapping[str, RunConfig]) -> str:
    """Return the output folder of runs for which no folder is given, such as "runs/san_tiny-scenes-seen-first-3".

    The folder's name begins with the names of the config and of the benchmarks. If the config has a `split`, `ids`, a
    `limit` or a `vocabulary`, further parts follow. `_named` returns the part for an entry of `vocabulary`.

    Raises OvssError if the source has no name.
    """
    if not isinstance(source, str | Path):
        raise OvssError(f"a config passed as a {type(source).__name__} has no name for a default folder. Pass out=DIR")
    config = next(iter(configs.values()))
    ids = config.ids and f"ids-{Path(config.ids).stem}"
    limit = config.limit and f"first-{config.limit}"
    words = [f"words-{_named(entry)}" for entry in config.vocabulary.values()]
    selection = [part for part in (config.split, ids, limit, *words) if part]
    return f"runs/{'-'.join([Path(source).stem, *map(files.plain, config.benchmarks), *selection])}"


def _named(words: str | WordList) -> str:
    """Return a short name for the user's class names, as a part of the default folder's name.

    `words` has the class names. If `words` is the path of a file, return the path's stem. If `words` is a WordList,
    return the first 8 hex digits of the WordList's sha256.
    """
    return Path(words).stem if isinstance(words, str) else words.sha256[:8]


def _written(key: str, value: Any) -> str:
    """Return an override as it is typed after --set. Raises OvssError for a value that YAML cannot hold."""
    plain = str(value) if isinstance(value, Path) else value
    try:
        text = yaml.dump(plain, Dumper=_Dumper, default_flow_style=True, width=sys.maxsize, allow_unicode=True)
    except yaml.YAMLError as failure:
        raise OvssError(f"overrides: {key}: a plain value such as 4 or 'bf16' is expected, not {value!r}") from failure
    return f"{key}={text.removesuffix(_DOCUMENT_END).strip()}"


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes no YAML aliases, since configs may not contain any."""

    def ignore_aliases(self, data: object) -> bool:
        return True
