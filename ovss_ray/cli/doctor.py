"""The checks of `ovss doctor`: software, hardware, network, data."""

import glob
import importlib.util
import os
import shutil
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from ovss_ray.benchmarks import catalog
from ovss_ray.cli.inventory import _named
from ovss_ray.errors import OvssError
from ovss_ray.io.files.cache import cache_folder
from ovss_ray.runs.folder import environment

GPU_FILES = ("/dev/nvidia*", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia")
"""Files of GPU drivers, also in WSL. If none of them exists, torch is not imported, which saves two seconds."""
ENOUGH_DISK = 5e9
"""Minimum free bytes on the disk of the cache for weights and embeddings. With less, the check fails."""


def check(console: Console, data_root: str | None) -> bool:
    """Print one line per check of this machine. Return True if all checks succeed."""
    healthy = True
    for good, text in (*_software(), *_hardware(), *_network(), *_data(data_root)):
        mark = "[green]ok [/]" if good else "[red]no [/]"
        console.print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)
        healthy = healthy and good
    return healthy


def _software() -> Iterator[tuple[bool, str]]:
    for name, version in environment()["packages"].items():
        yield version is not None, f"{name} {version or f'is not installed. Run `pip install {name}`'}"
    for module in ("torch", "torchvision", "open_clip", "numba", "cv2"):
        if importlib.util.find_spec(module) is None:
            yield False, f"{module} cannot be imported. Run `pip install --force-reinstall ovss_ray`"


def _hardware() -> Iterator[tuple[bool, str]]:
    gpus = _gpus() if any(glob.glob(pattern) for pattern in GPU_FILES) else []
    yield True, f"{os.cpu_count()} processors; GPUs: {', '.join(gpus) or 'none, networks run on the CPU'}"
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        yield free > ENOUGH_DISK, f"cache {cache} (OVSS_CACHE moves it): {free / 1e9:.1f} GB free"
    except OSError as failure:
        yield False, f"cache {cache} cannot be written: {failure.strerror}. Set OVSS_CACHE to a folder that can"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _network() -> Iterator[tuple[bool, str]]:
    """Yield (success, text) for RAY_ADDRESS. A cluster on another machine must use a token (CVE-2023-48022)."""
    address, mode = os.environ.get("RAY_ADDRESS", ""), os.environ.get("RAY_AUTH_MODE", "")
    outside = bool(address) and not any(local in address for local in ("127.0.0.1", "local", "auto"))
    yield (
        not outside or mode == "token",
        f"Ray cluster: {address or 'one of its own is started for each run'}"
        + ("" if not outside or mode == "token" else ", reached without a token. Set RAY_AUTH_MODE=token on all sides"),
    )


def _data(root: str | None) -> Iterator[tuple[bool, str]]:
    if root is None:
        yield True, "data: no folder named; pass --data-root DIR or set OVSS_DATA=DIR to check it"
        return
    for name in _named():
        benchmark = catalog.load(name)
        split = benchmark.split
        try:
            images, expected = sum(1 for _ in benchmark.items(root, split)), benchmark.counts.get(split)
            complete = expected in (None, images)
            advice = "" if complete else ": complete the data"
            yield complete, f"{name} {split}: {images} of {expected} images{advice}"
        except OvssError as failure:
            yield True, f"{name}: not here ({str(failure).splitlines()[0][:100]})"
