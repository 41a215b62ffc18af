"""The folder of a run: what was asked for, what was found, and the refusal to mix two runs in one."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovss_ray import config as configs
from ovss_ray import files
from ovss_ray.config import RunConfig
from ovss_ray.errors import OvssError

PACKAGES = ("ovss_ray", "ray", "torch", "open_clip_torch", "numpy", "pillow", "pyarrow", "numba")


@dataclass(frozen=True)
class RunFolder:
    """The addresses of everything in a run's folder, which is a local path or a URI (design §7)."""

    uri: str

    def card(self, benchmark: str) -> str:
        """The name, in this folder, of what the report has to know of a benchmark: labels and selection."""
        return f"{files.plain(benchmark)}/benchmark.json"

    def manifest(self, benchmark: str) -> str:
        """Where the list of a benchmark's images lies."""
        return files.join(self.uri, files.plain(benchmark), "manifest.parquet")

    def records(self, benchmark: str) -> str:
        """The folder of a benchmark's records."""
        return files.join(self.uri, files.plain(benchmark), "records")

    def predictions(self, benchmark: str) -> str:
        """The folder of a benchmark's label maps."""
        return files.join(self.uri, files.plain(benchmark), "predictions")

    def file(self, name: str) -> str:
        """A file directly in the folder."""
        return files.join(self.uri, name)

    def config(self) -> RunConfig:
        """The config that the run was begun with. Raises OvssError if this is not the folder of a run."""
        if not files.exists(self.file("config.yaml")):
            raise OvssError(f"{self.uri}: not the folder of a run (there is no config.yaml in it)")
        return configs.check(configs.parse(files.read(self.file("config.yaml")), self.file("config.yaml")), self.uri)

    def json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files; {} if there is none."""
        if not files.exists(self.file(name)):
            return {}
        try:
            return json.loads(files.read(self.file(name)))
        except ValueError as failure:
            raise OvssError(f"{self.file(name)}: damaged: {failure}") from failure

    def save_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files."""
        files.write(self.file(name), (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def command(self) -> Iterator[dict[str, Any]]:
        """Keep in history.json what becomes of a command that works in this folder; yields its entry, to add to."""
        entry: dict[str, Any] = {"begun": datetime.now(UTC).isoformat(timespec="seconds"), "ended": "cut off"}
        commands = [*self.history(), entry]
        self.save_json("history.json", {"commands": commands})
        since = time.monotonic()
        try:
            yield entry
        finally:
            failure = sys.exception()
            entry["ended"] = f"{type(failure).__name__}: {failure}".partition("\n")[0] if failure else "done"
            entry["seconds"] = round(time.monotonic() - since, 1)
            self.save_json("history.json", {"commands": commands})

    def history(self) -> list[dict[str, Any]]:
        """What became of the commands that have worked in this folder, oldest first."""
        return self.json("history.json").get("commands", [])

    def claim(self, config: RunConfig, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Take the folder for this run, or go on with the same run. Raises OvssError if it holds another one.

        One that was begun and has no record of any image yet is not held against anybody.
        """
        before = self.json("identity.json")
        begun = any(files.names(self.records(name), ".parquet") for name in before.get("benchmarks", ()))
        differences = list(differing(before, json.loads(json.dumps(identity)))) if begun else []
        if differences:
            raise OvssError(
                f"{self.uri}: this folder holds a run of something else. {'; '.join(differences[:5])}. "
                "Choose a new --out, or give the command that began it"
            )
        if not before and files.exists(self.file("config.yaml")):
            raise OvssError(f"{self.file('config.yaml')}: a config that no run has written. Choose another --out")
        text = configs.dump(config)
        if configs.check(configs.parse(text, "config.yaml"), "config.yaml") != config:
            raise AssertionError(f"a config must be read back as it was written: {text}")
        self.save_json("identity.json", identity)
        files.write(self.file("config.yaml"), text.encode())
        self.save_json("environment.json", environment)


def differing(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Say in words where two plain values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differing(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, pair in enumerate(zip(before, now, strict=True)):
            yield from differing(*pair, f"{path}.{i}")
    elif before != now:
        yield f"{path}: {before!r} there, {now!r} now"


def digest(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits that name what changes the answers of a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def environment() -> dict[str, Any]:
    """Versions and machine: an allow-list, so that nothing secret gets into a report."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, with + if changed; None for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
