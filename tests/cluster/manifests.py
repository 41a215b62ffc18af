"""The files of cluster/, as their tests read them."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.paths import ROOT

CLUSTER = ROOT / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
LAUNCHER = sorted((CLUSTER / "launcher").glob("*.yaml"))
RAY_KINDS = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
"""Kind of a KubeRay manifest → keys of `spec` that lead to the description of the cluster."""
IMAGE = "ovss-ray:" + tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def ray_manifests() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name of the file, manifest, and description of its Ray cluster."""
    for path in KUBERAY:
        for document in documents(path):
            if document["kind"] in RAY_KINDS:
                cluster = document["spec"]
                for key in RAY_KINDS[document["kind"]]:
                    cluster = cluster[key]
                yield path.name, document, cluster


def pods(cluster: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pod specs of the head and of all worker groups."""
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def everything(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from everything(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything(inner)


def ray_version() -> str:
    """The Ray version that the image installs."""
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", (CLUSTER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    return version
