"""Lookup of modules by name.

Each stage, data set and metric is one file. Each family of networks and each training recipe is one folder.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

from ovss_ray.errors import OvssError, UnknownName


def known(package: str) -> list[str]:
    """Return the names of a package's modules, sorted, without importing them.

    Names with a leading underscore are left out.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in pkgutil.iter_modules(folders or []) if not module.name.startswith("_"))


def packages(package: str, module: str = "") -> list[str]:
    """Return the names of the packages inside a package, sorted, without importing them.

    With `module`, only packages with a module of this name are returned.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    names = {inner.name for inner in pkgutil.iter_modules(folders) if inner.ispkg}
    if module:
        names = {name for name in names if any((Path(at) / name / f"{module}.py").is_file() for at in folders)}
    return sorted(names)


KINDS = {
    "ovss_ray.actors": "stage",
    "ovss_ray.datasets": "data set",
    "ovss_ray.engine.trackers": "tracker",
    "ovss_ray.metrics": "metric",
}
"""Noun that error messages use for the modules of each package."""

REMOVED = {
    "ovss_ray.actors.measure_regions": (
        "the stage `measure_regions` was removed; the stage `measure` does its work. Delete `measure_regions` from the "
        "`stages` of the config. To resume an existing run, delete `measure_regions` from config.yaml and from "
        "identity.json in the run's folder"
    ),
}
"""Full name of a removed module → error message for a config that still uses the module."""


def find(package: str, name: str, attribute: str) -> Any:
    """Return an attribute of a module by name.

    find("ovss_ray.actors", "san", "Stage") is `Stage` in ovss_ray/actors/san.py. A name with a dot is the full name of
    a module of your own. Raises UnknownName for an unknown name, and OvssError if a module or attribute is missing.
    """
    path = name if "." in name else f"{package}.{name}"
    if path in REMOVED:
        raise OvssError(REMOVED[path])
    if "." not in name and name not in known(package):
        raise UnknownName(KINDS.get(package, "module"), name, known(package))
    if "." in name and not (all(part.isidentifier() for part in name.split(".")) and exists(name)):
        raise OvssError(f"no module named {name!r} on the Python path. Add its folder to PYTHONPATH on every node")
    module = importlib.import_module(path)
    if not hasattr(module, attribute):
        raise OvssError(f"module {path!r} has no attribute {attribute!r}. Define it there, or name another module")
    return getattr(module, attribute)


def optional(name: str, attribute: str) -> Any:
    """Return an attribute of the module with the full name `name`; None if the module has no such attribute."""
    return getattr(importlib.import_module(name), attribute, None)


def exists(module: str) -> bool:
    """Return whether a module with this full name exists. Only its parent packages are imported."""
    parent = module.rpartition(".")[0]
    if parent and not exists(parent):
        return False
    return importlib.util.find_spec(module) is not None
