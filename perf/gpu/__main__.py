"""The command `python -m perf.gpu`, which `perf/gpu/run.sh` starts. Stages are imported when they begin."""

import importlib
import os
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "peaks": ("setup", "peaks"),
    "parity": ("parity", "measure"),
    "san": ("san", "measure"),
    "bf16": ("tiny", "precision"),
    "sam": ("sam", "measure"),
    "alpha_clip": ("regions", "alpha_clip"),
    "scan": ("regions", "scan_parts"),
    "profile": ("profiles", "measure"),
}
"""Stage → its module and function, in the order in which they run."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="stages, separated by commas")] = ",".join(STAGES),
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu")] = "cuda",
    tiny: Annotated[
        bool, typer.Option("--tiny", help="a dry run with the networks that come with the project")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="folder for JSON, table and profiles [default: $OUT, or .]")] = None,
    kit: Annotated[Path | None, typer.Option(help="folder with parity/ [default: the packed one]")] = None,
    limit: Annotated[float, typer.Option(help="seconds after which nothing new is begun")] = 570,
    rounds: Annotated[int, typer.Option(min=1, help="timed calls of each figure")] = 10,
    scenes: Annotated[int, typer.Option(min=1, help="per benchmark, of the stage bf16")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="of the CPU")] = min(16, os.cpu_count() or 1),
) -> None:
    """Measure on one GPU, and print each row as soon as it is there. The stages are:

    peaks (matrix products and copies), parity (goldens, float32), san, sam, alpha_clip, scan (throughput and memory),
    bf16 (mIoU of the tiny networks), profile.
    """
    stages = checked(only)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    begun = time.monotonic()
    import torch  # after the threads are fixed

    from perf.gpu.rows import Sheet
    from perf.gpu.setup import Setup, about

    torch.set_num_threads(threads)
    if device != "cpu" and not torch.cuda.is_available():
        raise typer.BadParameter(
            f"--device {device}: torch {torch.__version__} finds no GPU here. Type --device cpu --tiny for a dry run"
        )
    folder = out or Path(os.environ.get("OUT", "."))
    folder.mkdir(parents=True, exist_ok=True)
    sheet = Sheet(folder / f"gpu-{'-'.join(stages)}.json", about(device), limit, begun=begun)
    for key, value in sheet.about.items():
        sheet.say(f"{key}: {value}")
    setup = Setup(device, tiny, kit or packed(), sheet, rounds, scenes, threads)
    for stage in stages:
        if sheet.due(f"the stage {stage}"):
            module, function = STAGES[stage]
            with sheet.attempt(f"the rest of the stage {stage}"):
                getattr(importlib.import_module(f"perf.gpu.{module}"), function)(setup)
    sheet.table()


def checked(only: str) -> list[str]:
    """Read the names of stages. Raises typer.BadParameter."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in STAGES]:
        raise typer.BadParameter(f"--only: unknown stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    return [name for name in STAGES if name in names]


def packed() -> Path:
    """The folder that has parity/: of the packed project, of the checkout's build/gpu, or next to the checkout."""
    folders = (ROOT, ROOT / "build" / "gpu", ROOT.parent / "shared")
    return next((folder for folder in folders if (folder / "parity").is_dir()), ROOT)


if __name__ == "__main__":
    app()
