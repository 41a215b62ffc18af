"""The service as a config of Ray Serve, for `serve run` and `serve deploy` on a cluster. Nothing here imports Ray."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ovss_ray import files
from ovss_ray.config import RunConfig
from ovss_ray.serve import share

GRACE = 5.0
"""Seconds that Serve gives a request beyond the service's own limit, which also holds for who asks to lift this one."""


def http_options(configs: Mapping[str, RunConfig], host: str, port: int) -> dict[str, object]:
    """Where Serve listens, and how long it waits. Raises OvssError if the configs differ in their limits."""
    return {"host": host, "port": port, "request_timeout_s": share.limits(configs).seconds + GRACE}


def write(
    file: Path, names: Sequence[str], overrides: Sequence[str], configs: Mapping[str, RunConfig], host: str, port: int
) -> None:
    """Write the file: configs that come with the project by name, others by path, which every node has to see.

    Raises OvssError if it cannot be written.
    """
    arguments: dict[str, object] = {"config": [files.absolute(one) if Path(one).is_file() else one for one in names]}
    if overrides:
        arguments["set"] = list(overrides)
    made = {
        "proxy_location": "EveryNode",
        "http_options": http_options(configs, host, port),
        "logging_config": {"enable_access_log": False, "log_level": "ERROR"},
        "applications": [
            {"name": "ovss", "route_prefix": "/", "import_path": "ovss_ray.serve.app:build", "args": arguments}
        ],
    }
    files.write(str(file), yaml.safe_dump(made, sort_keys=False).encode())
