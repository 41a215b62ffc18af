"""The folder of a run: config, identity, history and files. A folder never has files of two runs."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovss_ray.config import loading as configs
from ovss_ray.config.run import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.io import files

PACKAGES = ("ovss_ray", "ray", "torch", "open_clip_torch", "numpy", "pillow", "pyarrow", "numba")


@dataclass(frozen=True)
class RunFolder:
    """Paths in the folder of a run. The folder is a local path or a URI."""

    uri: str

    def card(self, benchmark: str) -> str:
        """Return the path of a benchmark's card, relative to the folder.

        The card is a JSON file with facts that the report needs, such as labels and selected images.
        """
        return f"{files.plain(benchmark)}/benchmark.json"

    def relations(self, benchmark: str) -> str:
        """Return the path, relative to the folder, of the relations between a benchmark's labels."""
        return f"{files.plain(benchmark)}/relations.json"

    def manifest(self, benchmark: str) -> str:
        """Return the path of a benchmark's manifest, the table of its images."""
        return files.join(self.uri, files.plain(benchmark), "manifest.parquet")

    def records(self, benchmark: str) -> str:
        """Return the folder of a benchmark's records."""
        return files.join(self.uri, files.plain(benchmark), "records")

    def predictions(self, benchmark: str) -> str:
        """Return the folder of a benchmark's label maps."""
        return files.join(self.uri, files.plain(benchmark), "predictions")

    def file(self, name: str) -> str:
        """Return the path of a file at the top of the folder."""
        return files.join(self.uri, name)

    def config(self) -> RunConfig:
        """Return the config of the run. Raises OvssError if this is not the folder of a run."""
        if not files.exists(self.file("config.yaml")):
            raise OvssError(f"{self.uri}: not the folder of a run (it has no config.yaml). Pass the --out of a run")
        return configs.validate(configs.parse(files.read(self.file("config.yaml")), self.file("config.yaml")), self.uri)

    def facts(self, benchmark: str) -> dict[str, Any]:
        """Return the content of a benchmark's card (see `card`). Raises OvssError if the card is missing or damaged."""
        card = self.json(self.card(benchmark))
        if not card:
            raise OvssError(
                f"{self.uri}: this run was interrupted before {benchmark} started. Run the same command again"
            )
        return card

    def labels(self) -> dict[str, list[str]]:
        """Return benchmark → names of its labels. Raises OvssError if a benchmark's card is missing (see `card`)."""
        return {name: self.facts(name)["labels"] for name in self.config().benchmarks}

    def json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file in the folder; {} if it does not exist. Raises OvssError if damaged."""
        if not files.exists(self.file(name)):
            return {}
        try:
            return json.loads(files.read(self.file(name)))
        except ValueError as failure:
            raise OvssError(
                f"{self.file(name)}: damaged, invalid JSON: {failure}. Restore the file, or choose another --out"
            ) from failure

    def save_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file into the folder."""
        files.write(self.file(name), (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def command(self, kept: Callable[[], bool] = lambda: True) -> Iterator[dict[str, Any]]:
        """Record a command and its outcome in history.json. Yields the command's entry, which the caller may extend.

        If `kept` returns False, another command has taken the folder's lease. The outcome is then not written.
        """
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
            if kept():
                self.save_json("history.json", {"commands": commands})

    def history(self) -> list[dict[str, Any]]:
        """Return the commands that were run in this folder, with their outcomes, oldest first."""
        return self.json("history.json").get("commands", [])

    def claim(self, config: RunConfig, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Reserve the folder for this run, or resume the run in it.

        A different run without records is overwritten. Raises OvssError if the folder has records of a different run,
        or a config.yaml that belongs to no run.
        """
        before = self.json("identity.json")
        begun = any(files.names(self.records(name), ".parquet") for name in before.get("benchmarks", ()))
        differences = list(differing(before, json.loads(json.dumps(identity)))) if begun else []
        if differences:
            raise OvssError(
                f"--out already contains a different run: {self.uri}. Settings differ: {'; '.join(differences[:5])}. "
                "Choose another --out. To resume the run in this folder, type its original command"
            )
        if not before and files.exists(self.file("config.yaml")):
            raise OvssError(f"{self.file('config.yaml')}: not the config.yaml of a run. Choose another --out")
        text = configs.dump(config)
        if configs.validate(configs.parse(text, "config.yaml"), "config.yaml") != config:
            raise AssertionError(f"the config changes when it is written and read back: {text}")
        self.save_json("identity.json", identity)
        files.write(self.file("config.yaml"), text.encode())
        self.save_json("environment.json", environment)


def differing(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield a message for each difference between two JSON-like values.

    A message begins with the place of the difference, such as "stages.0.options". `path` is the place of the two values
    in a larger value, such as "stages.0".
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differing(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, pair in enumerate(zip(before, now, strict=True)):
            yield from differing(*pair, f"{path}.{i}")
    elif before != now:
        yield f"{path}: {before!r} there, {now!r} now"


def digest(identity: Mapping[str, Any]) -> str:
    """Return the first 12 hex digits of the SHA-256 of a run's identity (see RunPlan.identity)."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def environment() -> dict[str, Any]:
    """Return the versions of packages and Python, the platform and the Git commit. The result contains no secrets."""
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
    """Return the Git commit of this package, followed by "+" if files were modified; None without a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
