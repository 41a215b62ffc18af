"""Catalogue of benchmarks by name."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ovss_ray import registry
from ovss_ray.benchmarks.class_lists import variants, vocabulary
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.own_words import OwnWords
from ovss_ray.errors import UnknownName
from ovss_ray.io import files


def load(name: str) -> Benchmark:
    """Return a benchmark by name: "camvid", "ade20k:847", "folder:my.yaml", "my_package.my_data:variant".

    "ade20k:150@catseg" is ade20k:150 with the class names of classes/ade20k_150@catseg.txt. Raises UnknownName, which
    suggests the most similar name.
    """
    family, _, argument = name.partition(":")
    if "." not in family and family not in families():
        raise UnknownName("benchmark", name, known())
    # A module defines either `benchmark` or BENCHMARKS. The namespace is searched without an error for the missing one.
    module = registry.find("ovss_ray.datasets", family, "__dict__")
    if "benchmark" in module:
        return module["benchmark"](argument)
    offered = registry.find("ovss_ray.datasets", family, "BENCHMARKS")
    if argument in offered:
        return offered[argument]
    base, mark, words = argument.partition("@")
    if base not in offered or not mark:
        raise UnknownName("benchmark", name, [_named(family, suffix) for suffix in offered])
    return _in_words(offered[base], _named(family, base), words)


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names, with "pascal5i" and "coco20i" replaced by the names of their folds, such as "pascal5i:0"."""
    return tuple(benchmark for name in names for benchmark in (folds(name) or (name,)))


def folds(family: str) -> tuple[str, ...]:
    """Return the benchmark names of a data set's folds; empty if `family` has no folds or is not a data set."""
    if family not in families():
        return ()
    module = registry.find("ovss_ray.datasets", family, "__dict__")
    return tuple(_named(family, str(fold)) for fold in module.get("FOLDS", ()))


class Benchmarks(dict[str, Benchmark]):
    """Benchmarks by name, each loaded on first access. Raises UnknownName for an unknown benchmark."""

    def __init__(self, words: Mapping[str, OwnWords] | None = None) -> None:
        """Create the mapping. `words`: benchmark → words of the user in place of the benchmark's classes."""
        super().__init__()
        self._words = words or {}

    def __missing__(self, name: str) -> Benchmark:
        benchmark, words = load(name), self._words.get(name)
        self[name] = words.applied(benchmark) if words else benchmark
        return self[name]


def _in_words(base: Benchmark, name: str, words: str) -> Benchmark:
    """Return the benchmark `base` with other class names.

    `name`: name of `base`, such as "ade20k:150". `words`: name of a list of class names, such as "catseg". Raises
    UnknownName if `base` has no list of this name.
    """
    known = variants(name)
    if words not in known:
        kind = f"list of names for {name}"
        raise UnknownName(kind, words, known)
    renamed = vocabulary(f"{name.replace(':', '_')}@{words}")
    return replace(base, title=f"{base.title}, names of {words}", vocabulary=renamed)


def absolute(name: str) -> str:
    """Return the name of a benchmark with an absolute path, such as "folder:/home/me/my.yaml" for "folder:my.yaml".

    Names without a path are unchanged.
    """
    # Workers run in another folder, where a relative path would be wrong.
    family, colon, rest = name.partition(":")
    return f"{family}:{files.absolute(rest)}" if family == "folder" and rest else family + colon + rest


def families() -> list[str]:
    """Return the names of the modules in ovss_ray.datasets."""
    return registry.known("ovss_ray.datasets")


def known() -> list[str]:
    """Return the names of all benchmarks of this package, and the text "folder:PATH.yaml".

    "folder:PATH.yaml" shows the form of a name for a benchmark that a user describes in a YAML file.
    """
    names = []
    for family in families():
        module = registry.find("ovss_ray.datasets", family, "__dict__")
        names += [_named(family, suffix) for suffix in module.get("BENCHMARKS", ["PATH.yaml"])]
    return names


def _named(family: str, suffix: str) -> str:
    return f"{family}:{suffix}" if suffix else family
