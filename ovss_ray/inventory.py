"""What there is and what works: the tables of `ovss list` and the checks of `ovss doctor`."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovss_ray import published, run_folder, stage
from ovss_ray import weights as known_weights
from ovss_ray.datasets import benchmark as loading
from ovss_ray.errors import OvssError, UnknownName

ENOUGH_DISK = 5e9
"""Free bytes below which the cache of weights and embeddings is likely to run full."""


def tables(what: str | None, benchmark: str | None, shipped: Mapping[str, Path]) -> list[Table]:
    """The tables of one thing that there is, or of all but the published figures.

    Raises UnknownName, and OvssError for a benchmark where no figures are asked for.
    """
    makers: dict[str, Callable[[], Table]] = {
        "benchmarks": benchmarks,
        "stages": stages,
        "configs": partial(configs, shipped),
        "weights": weights,
        "published": partial(figures, benchmark),
    }
    if what is not None and what not in makers:
        raise UnknownName("list of", what, makers)
    if benchmark is not None and what != "published":
        raise OvssError(f"a benchmark goes with its figures alone. Type: ovss list published --benchmark {benchmark}")
    names = [what] if what is not None else [name for name in makers if name != "published"]
    return [makers[name]() for name in names]


def figures(benchmark: str | None) -> Table:
    """What is published for one benchmark, best first, or for all of them. Raises UnknownName."""
    if benchmark is not None:
        loading.load(benchmark)
    found = published.figures() if benchmark is None else published.of(benchmark)
    of = f" for {escape(benchmark)}" if benchmark else ""
    table = Table("method", "backbone", "benchmark", title=f"Published mIoU{of}: {len(found)}", title_justify="left")
    table.add_column("mIoU", justify="right")
    table.add_column("convention")
    table.add_column("source")
    for one in found:
        source = f"{one.kind}: {one.where}" + (f" ({one.note})" if one.note else "")
        words = (one.method, one.backbone, one.benchmark, str(one.miou), one.convention, source)
        table.add_row(*map(escape, words))
    table.caption = (
        "miou, miou_classic: as in our reports; either: all classes occur, so they are one; unknown: not said"
    )
    table.caption_justify = "left"
    return table


def benchmarks() -> Table:
    """Every benchmark with its images, classes and licence."""
    table = Table(
        "benchmark", "title", "classes", "images per split", "licence", title="Benchmarks", title_justify="left"
    )
    for name in _named():
        one = loading.load(name)
        counts = ", ".join(f"{split} {count:,}" for split, count in one.counts.items())
        table.add_row(name, escape(one.title), str(len(one.vocabulary)), counts, escape(one.licence))
    table.add_row("folder:FILE.yaml", "your own images, labels and class names", "", "", "yours")
    return table


def _named() -> list[str]:
    """The benchmarks that need no file of the user's own."""
    return [name for name in loading.known() if not name.startswith("folder:")]


def stages() -> Table:
    """Every stage with the columns it reads and writes and the options it takes."""
    table = Table("stage", "reads", "writes", "options", title="Stages", title_justify="left")
    for name in stage.known("ovss_ray.actors"):
        kind = stage.find("ovss_ray.actors", name, "Stage")
        table.add_row(escape(name), " ".join(kind.reads), " ".join(kind.writes), " ".join(kind.Config.model_fields))
    return table


def configs(shipped: Mapping[str, Path]) -> Table:
    """The configs that come with the project."""
    table = Table("config", "file", title="Configs", title_justify="left")
    for name, path in shipped.items():
        table.add_row(escape(name), escape(str(path)))
    return table


def weights() -> Table:
    """Every known checkpoint, and where it lies if it is here."""
    table = Table("weights", "bytes", "licence", "here", title="Weights", title_justify="left")
    for name, one in known_weights.WEIGHTS.items():
        found = known_weights.lookup(name)
        size = f"{one.bytes:,}" if one.bytes else "not published"
        table.add_row(name, size, escape(one.licence), escape(str(found)) if found else f"ovss weights fetch {name}")
    return table


def check(console: Console, data_root: str | None) -> bool:
    """Print one line per check of this machine; True if nothing is missing that a run needs."""
    healthy = True
    for good, text in (*_software(), *_hardware(), *_network(), *_data(data_root)):
        mark = "[green]ok [/]" if good else "[red]no [/]"
        console.print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)
        healthy = healthy and good
    return healthy


def _software() -> Iterator[tuple[bool, str]]:
    for name, version in run_folder.environment()["packages"].items():
        yield version is not None, f"{name} {version or f'is not installed. Type: pip install {name}'}"
    for module in ("torch", "torchvision", "open_clip", "numba", "cv2"):
        if importlib.util.find_spec(module) is None:
            yield False, f"{module} cannot be imported. Type: pip install --force-reinstall ovss_ray"


def _hardware() -> Iterator[tuple[bool, str]]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield True, f"{os.cpu_count()} processors; GPUs: {', '.join(gpus) or 'none, networks run on the CPU'}"
    cache = known_weights.cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        yield free > ENOUGH_DISK, f"cache {cache} (OVSS_CACHE moves it): {free / 1e9:.1f} GB free"
    except OSError as failure:
        yield False, f"cache {cache} cannot be written: {failure.strerror}. Set OVSS_CACHE to a folder that can"


def _network() -> Iterator[tuple[bool, str]]:
    """A Ray cluster that listens beyond this machine has to ask for a token (CVE-2023-48022)."""
    address, mode = os.environ.get("RAY_ADDRESS", ""), os.environ.get("RAY_AUTH_MODE", "")
    outside = bool(address) and not any(local in address for local in ("127.0.0.1", "local", "auto"))
    yield (
        not outside or mode == "token",
        f"Ray cluster: {address or 'one of its own is started for each run'}"
        + ("" if not outside or mode == "token" else ", reached without a token. Set RAY_AUTH_MODE=token on all sides"),
    )


def _data(root: str | None) -> Iterator[tuple[bool, str]]:
    if root is None:
        yield True, "data: no folder named; say --data-root DIR or set OVSS_DATA=DIR to have it looked through"
        return
    for name in _named():
        one = loading.load(name)
        try:
            found, expected = sum(1 for _ in one.items(root, one.split)), one.counts.get(one.split)
            complete = expected in (None, found)
            yield (
                complete,
                f"{name} {one.split}: {found} of {expected} images" + ("" if complete else ": complete the data"),
            )
        except OvssError as failure:
            yield True, f"{name}: not here ({str(failure).splitlines()[0][:100]})"
