"""What all scripts share: sides timed in turn, medians with their spread, and the line that names the machine."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

Seconds = dict[str, np.ndarray]
"""Side → (rounds,) float64."""
PACKAGES = ("torch", "numpy", "numba", "pillow", "opencv-python-headless", "ray")


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    warm: bool = True,
) -> Seconds:
    """Time sides in turn, A B A B …: seconds of each call.

    With `warm`, a first round, in which things are loaded, is left out. The clock is that of the wall, or
    time.process_time. A GPU is waited for before and after each call.
    """
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + warm):
        for name, side in sides.items():
            settle(device)
            begun = clock()
            side()
            settle(device)
            spent[name].append(clock() - begun)
    return {name: np.array(values[warm:]) for name, values in spent.items()}


def settle(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def spread(values: np.ndarray, digits: int = 2) -> str:
    """The median, and the quartiles in brackets."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def ratio(one: np.ndarray, other: np.ndarray) -> str:
    """How many times the other's, round by round: neighbours in time, which a busy machine slows alike."""
    return spread(one / other)


def titled(title: str, *columns: str) -> Table:
    """A table with a title; every column but the first is of numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def show(table: Table, note: str) -> None:
    """Print a table below the machine and above a note: how it was measured, and what the figures mean."""
    console = Console(width=None if os.isatty(1) else 140)
    console.print(machine(), table, f"median (quartiles) of rounds in turn. {note}\n", highlight=False, markup=False)


def machine() -> str:
    """Processor, versions, threads and load, in one line."""
    found = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in found.splitlines() if line.startswith("model name")]
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name)))
    threads, load = os.environ.get("OMP_NUM_THREADS", "?"), "/".join(f"{value:.1f}" for value in os.getloadavg())
    processor = names[0] if names else platform.machine()
    return (
        f"{processor}, {os.cpu_count()} processors, load {load}, {threads} threads; "
        f"Python {platform.python_version()}, {versions}"
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
