"""Config file with which Ray's commands `serve run` and `serve deploy` start the service on a cluster.

This module does not import Ray.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ovss_ray.config.run import RunConfig
from ovss_ray.io import files
from ovss_ray.serve.deployments import share

GRACE = 5.0
"""Seconds that are added to `limits.upload` + `limits.seconds` for Ray Serve's request timeout"""


def http_options(configs: Mapping[str, RunConfig], host: str, port: int) -> dict[str, object]:
    """Return the HTTP options of Ray Serve: host, port, and request timeout in seconds.

    `configs`: name of a model → config. Raises OvssError if the configs differ in `limits`, or if the name of a model
    is invalid (see share.NAMES).
    """
    limits = share.limits(configs)
    return {"host": host, "port": port, "request_timeout_s": limits.upload + limits.seconds + GRACE}


def write(
    file: Path, names: Sequence[str], overrides: Sequence[str], configs: Mapping[str, RunConfig], host: str, port: int
) -> None:
    """Write a config file of Ray Serve that starts the service.

    `names`: names of shipped configs, or paths that exist on every node. `overrides`: changes, each KEY.SUB=VALUE.
    `configs`: name of a model → config with the changes. Raises OvssError if the file cannot be written, or if the
    configs differ in `limits`. Also raises OvssError if the name of a model is invalid (see share.NAMES).
    """
    arguments: dict[str, object] = {
        "config": [files.absolute(name) if Path(name).is_file() else name for name in names]
    }
    if overrides:
        arguments["set"] = list(overrides)
    document = {
        "proxy_location": "EveryNode",
        "http_options": http_options(configs, host, port),
        "logging_config": {"enable_access_log": False, "log_level": "ERROR"},
        "applications": [
            {
                "name": "ovss",
                "route_prefix": "/",
                "import_path": "ovss_ray.serve.deployments.app:build",
                "args": arguments,
            }
        ],
    }
    files.write(str(file), yaml.safe_dump(document, sort_keys=False).encode())
