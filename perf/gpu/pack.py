"""Pack the folder that goes to a GPU machine without a network: the project, wheels, and one golden of each network.

    python -m perf.gpu.pack [--out build/gpu] [--python 3.12] [--no-project]

The folder is at most 60 MiB, and build/ is ignored by git: goldens and photographs are never committed. Where the
project travels as a checkout, leave it out with --no-project; `perf/gpu/run.sh` finds wheels and goldens in build/gpu.
Wheels are those of the processor x86-64. Packages that the machine has are not replaced.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
LIMIT = 60 << 20
"""Bytes of the folder, at most."""
PROJECT = ("ovss_ray", "perf", "configs", "tests")
UNUSED = ("__pycache__", "data", "*.pyc", "test_*.py")
"""Left out of the copied folders."""
WITH_NEEDS = ("pydantic",)  # it needs one version of pydantic-core
PURE = ("open_clip_torch", "segment_anything", "timm", "ftfy", "wcwidth", "platformdirs")
PURE = (*PURE, "pytest", "iniconfig", "pluggy")
PURE = (*PURE, "rich", "typer", "annotated-doc", "markdown-it-py", "mdurl", "pygments", "shellingham", "click")
PURE = (*PURE, "fsspec", "tqdm", "psutil", "cloudpickle")
COMPILED = ("regex", "safetensors", "pyyaml")
"""Wheels: the networks' packages, and what they and the project import. torch, torchvision, numpy, pillow, pyarrow,
OpenCV and numba are too large, and huggingface_hub has many needs: the machine has them."""
GOLDENS = (
    *(f"san/{short}_seed0_{part}.npz" for short in ("vit_b_16", "vit_large_14") for part in ("camvid", "text_v20")),
    *(f"san/{short}_seed0_overrides.npz" for short in ("vit_b_16", "vit_large_14")),
    *(f"alpha_clip/goldens_{arch}_seed0.npz" for arch in ("vit_b_16", "vit_l_14_336")),
    *(f"alpha_clip/manifest_alphaclip_{arch}.json" for arch in ("vit_b_16", "vit_l_14_336")),
    *(f"scan/golden_{case}.npz" for case in ("vitB_small_seed0", "vitL_seed0")),
    *("scan/manifest_scan_vitB.json", "scan/manifest_scan_vitL.json", "scan/weights.py", "deterministic.py"),
    *("fusioner/forward_pascal.npz", "ovsam/golden_predict.npz", "ovsam/tiny_coco/val2017/truck.jpg"),
    *("ovsam/manifest_ovsam_rn50x16.json", "ovsam/manifest_clip_text_rn50x16.json", "inputs/0001TP_008550.png"),
)
"""Files below ../shared/parity: one golden per network, and what its weights are made from."""


def main(
    out: Annotated[Path, typer.Option(help="folder to write")] = ROOT / "build" / "gpu",
    python: Annotated[str, typer.Option(help="version of the machine's Python")] = "3.12",
    project: Annotated[bool, typer.Option(help="also the project")] = True,
    wheels: Annotated[bool, typer.Option(help="also the wheels, from the package index")] = True,
    goldens: Annotated[Path, typer.Option(help="folder with the goldens")] = SHARED / "parity",
) -> None:
    """Write the folder. An earlier one is replaced."""
    if out.exists() and not (out / MARK).exists():
        raise typer.BadParameter(f"--out {out} exists and is no packed folder; type another, or delete it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).write_text("Written by python -m perf.gpu.pack, which replaces this folder.\n")
    if project:
        for name in PROJECT:
            shutil.copytree(ROOT / name, out / name, ignore=shutil.ignore_patterns(*UNUSED))
        shutil.copy(ROOT / "pyproject.toml", out)
    for name in GOLDENS:
        copy(goldens / name, out / "parity" / name)
    if wheels:
        download(out / "wheels", python)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB. There: bash perf/gpu/run.sh --only parity,san")
    if size > LIMIT:
        raise SystemExit(
            f"{size / 2**20:.1f} MiB are more than {LIMIT >> 20}; type --no-project, or pack fewer goldens"
        )


MARK = "PACKED"
"""A file that says that a folder may be replaced."""


def copy(source: Path, target: Path) -> None:
    """Copy one file. Raises typer.BadParameter if it is not there."""
    if not source.exists():
        raise typer.BadParameter(f"{source} is missing: --goldens is the folder parity/ of the reference data")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def download(folder: Path, python: str) -> None:
    """Download the wheels for a Python on Linux."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)]
    platforms += ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [*pip(), "download", "-q", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [part for platform in platforms for part in ("--platform", platform)]
    subprocess.run([*command, *WITH_NEEDS], check=True)
    subprocess.run([*command, "--no-deps", *PURE, *COMPILED], check=True)


def pip() -> list[str]:
    """The command of pip: of this Python, else of the path, since environments of uv have none."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise typer.BadParameter("pip is missing, which downloads the wheels: install it, or type --no-wheels")


if __name__ == "__main__":
    typer.run(main)
