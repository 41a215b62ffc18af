"""The whole Ray run with one worker of SAN, against a plain PyTorch loop over the same photographs: CPU seconds.

Both read and decode photographs and labels, segment one image at a time with the same weights and threads, count the
confusion cells and write the label maps. What counts is user + system time of the process and of all its descendants,
Ray's own among them, sampled five times a second from the process table: a process's last fifth of a second may be
missed, and so may be one that lives shorter. Wall time would say nothing on a machine that others use.

Start-up is told apart inside each run, by the label maps that are there: with C(k) the CPU seconds when there are
k, (C(n) − C(few)) / (n − few) are those of an image, and what n times that leaves of the whole is the start-up with the
end, of Ray, workers, weights and the vocabulary.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from rich.table import Table

from perf import pictures
from perf.timing import ratio, show, spread, titled

Used = dict[str, float]
"""The title of a process → CPU seconds."""
Spent = dict[str, list[tuple[Used, Used]]]
"""Side → for each round what an image used, once a few were done, and what was used in all."""
SIDES = ("loop", "ray", "ray, one pool")
"""The plain loop; Ray as shipped; Ray with all stages in one pool by config, as it places them itself without GPUs."""
PERIOD = 0.2
"""Seconds between two looks at the process table."""
FAREWELL = 30.0
"""Seconds that descendants may outlive the process, and are still counted."""
SHARED = 0.75
"""Processors for decoding, counting and writing, also on a machine that has no more than SAN's threads."""
ONE_POOL = [{"use": name} for name in ("decode", "san", "truth", "measure")]


def measure(variant: str, images: int, few: int, rounds: int, drawn: bool, sides: tuple[str, ...] = SIDES) -> None:
    """Print the tables; with `few` 0 the start-up is not taken off."""
    with tempfile.TemporaryDirectory() as folder:
        task = prepare(Path(folder), variant, images, drawn)
        spent: Spent = {side: [] for side in sides}
        digests: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                spent[side].append(_measured(side, images, few, task))
                digests[side].append(json.loads((_folder(task, side, images) / "digests.json").read_text()))
                _check(task, side, images)
    table = titled(
        f"{images} images with {variant}: CPU seconds (bar: at most 1.10 times the loop's)",
        *("run", "an image", "times the loop's", "start-up and end", "in all", "digests, in all", "share of all, %"),
    )
    each: dict[str, np.ndarray] = {}
    for side in sides:
        each[side], whole = (np.array([sum(used.values()) for used in one]) for one in zip(*spent[side], strict=True))
        rest = spread(whole - images * each[side], 1) if few else "in the image's"
        hashed = np.array(digests[side])
        last = (spread(hashed, 4), spread(100 * hashed / whole, 3))
        table.add_row(side, spread(each[side], 3), ratio(each[side], each["loop"]), rest, spread(whole, 1), *last)
    show(table, f"{rounds} rounds; start-up until {few} images were done. Photographs: {task['benchmark']}.")
    show(_where(spent), "Processes of one title together; what is under 0.01 s an image is left out.")


def _where(spent: Spent) -> Table:
    """The processes that use the time: CPU seconds an image, and in all."""
    table = titled("Where they go, CPU seconds", "run: process", "an image", "in all")
    for side, runs in spent.items():
        for title in sorted({title for _, whole in runs for title in whole}):
            each, whole = (np.array([used.get(title, 0.0) for used in one]) for one in zip(*runs, strict=True))
            if np.median(each) >= 0.01:
                table.add_row(f"{side}: {title}", spread(each, 3), spread(whole, 1))
    return table


def prepare(folder: Path, variant: str, images: int, drawn: bool) -> dict[str, str]:
    """Make up the weights, and photographs if CamVid is not there; what both sides are told."""
    from ovss_ray.models import fake

    weights = folder / "weights.pth"
    fake.write(variant, weights)
    real = (pictures.REAL / "CamVid").is_dir() and not drawn
    benchmark = "camvid" if real else f"folder:{_draw(folder, images)}"
    root = str(pictures.REAL) if real else str(folder)
    return {"variant": variant, "weights": str(weights), "benchmark": benchmark, "root": root, "out": str(folder)}


def _draw(folder: Path, images: int) -> Path:
    names = ("sky", "building", "road", "tree")
    for kind in ("photos", "labels"):
        (folder / kind).mkdir()
    for number in range(images):
        Image.fromarray(pictures.photograph((360, 480), number)).save(folder / f"photos/{number:03}.png")
        truth = pictures.regions(len(names), (360, 480), number).astype(np.uint8)
        Image.fromarray(truth).save(folder / f"labels/{number:03}.png")
    file = folder / "drawn.yaml"
    file.write_text(f"images: photos/*.png\nlabels: labels/*.png\nclasses: [{', '.join(names)}]\n")
    return file


def _measured(side: str, images: int, few: int, task: dict[str, str]) -> tuple[Used, Used]:
    given = json.dumps({**task, "side": side, "images": str(images)})
    command = [sys.executable, "-m", "perf", "--threads", os.environ["OMP_NUM_THREADS"], "run-side", given]
    environment = {**os.environ, "RAY_ADDRESS": "local", "OVSS_CACHE": task["out"]}
    folder = _folder(task, side, images)
    shutil.rmtree(folder, ignore_errors=True)  # or the next round would be resumed
    (early, begun), (late, done), (_, whole) = cpu_seconds(command, environment, lambda: _maps(folder), (few, images))
    if early == late:
        raise RuntimeError(f"all {images} images were done between two looks, {PERIOD} s apart; give more of them")
    return {title: (used - begun.get(title, 0.0)) / (late - early) for title, used in done.items()}, whole


def _maps(folder: Path) -> int:
    """How many label maps there are."""
    return sum(1 for _ in folder.rglob("predictions/*.png"))


def cpu_seconds(
    command: list[str],
    environment: dict[str, str],
    done: Callable[[], int] = lambda: 0,
    marks: Sequence[int] = (),
) -> list[tuple[int, Used]]:
    """Run a command: how much was done, and what its process and all descendants had used, at each mark and at last.

    A mark is the look at which `done` has reached it, or more. Raises RuntimeError if the command fails, or does less.
    """
    used: dict[psutil.Process, float] = {}
    titles: dict[psutil.Process, str] = {}
    made: list[tuple[int, dict[psutil.Process, float]]] = []
    ended = 0.0
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, env=environment, stderr=said) as driver:
        top = psutil.Process(driver.pid)
        while True:
            with suppress(psutil.NoSuchProcess):
                used |= dict.fromkeys({top, *top.children(recursive=True)} - set(used), 0.0)
            living = [_look(process, used, titles) for process in used]
            while len(made) < len(marks) and (count := done()) >= marks[len(made)]:
                made.append((count, dict(used)))
            ended = ended or (time.monotonic() if driver.poll() is not None else 0.0)
            if ended and (not any(living) or time.monotonic() - ended > FAREWELL):
                break
            time.sleep(PERIOD)
        if driver.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {said.read()}")
    if len(made) < len(marks):
        raise RuntimeError(f"{' '.join(command)} ended with {done()} done, and {marks[len(made)]} were to be")
    return [(count, _by_title(one, titles)) for count, one in [*made, (done(), used)]]


def _by_title(used: dict[psutil.Process, float], titles: dict[psutil.Process, str]) -> Used:
    """By the titles that the processes had last."""
    return {title: sum(s for p, s in used.items() if titles.get(p) == title) for title in set(titles.values())}


def _look(process: psutil.Process, used: dict[psutil.Process, float], titles: dict[psutil.Process, str]) -> bool:
    """Note what a process has used so far, and as what; whether it goes on."""
    try:
        times = process.cpu_times()
        used[process] = times.user + times.system
        titles[process] = _title(process.cmdline()) or titles.get(process, "?")
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _title(command: list[str]) -> str:
    """What a process is: Ray's own title (`ray::…`), else the name of its script or program; none once it has ended."""
    words = " ".join(command).split()
    python = words and "python" in words[0]  # not the raylet, whose arguments name the script of its workers
    script = next((word for word in words[1:] if python and word.endswith(".py")), "")
    return re.sub(r"\)\.\w+$", ")", (script or (words[0] if words else "")).rpartition("/")[2])


def _folder(task: dict[str, str], side: str, images: int) -> Path:
    return Path(task["out"]) / "runs" / f"{side.replace(', ', '-').replace(' ', '-')}-{images}"


def _check(task: dict[str, str], side: str, images: int) -> None:
    """Compare a side's label maps and mIoU with the loop's."""
    mine, loop = _folder(task, side, images), _folder(task, "loop", images)
    maps = sorted(file.relative_to(mine) for file in mine.rglob("predictions/*.png"))
    assert len(maps) == images, f"{side}: {len(maps)} label maps of {images}"
    for file in maps:
        one, other = (np.asarray(Image.open(folder / file)) for folder in (mine, loop))
        assert (one == other).mean() >= 0.999, f"{side}: {file} differs from the loop's"
    mious = [json.loads((folder / "miou.json").read_text()) for folder in (mine, loop)]
    assert abs(mious[0] - mious[1]) < 0.01, f"{side}: mIoU {mious[0]}, the loop's {mious[1]}"


def do(task: dict[str, str]) -> None:
    """Be one side: the process that is measured."""
    side, images = task["side"], int(task["images"])
    folder = _folder(task, side, images)
    miou = _loop(task, images, folder) if side == "loop" else _ray(task, images, folder)
    (folder / "miou.json").write_text(json.dumps(miou))
    (folder / "digests.json").write_text(json.dumps(_digests(folder)))


def _digests(folder: Path) -> float:
    """The CPU seconds that the workers of a run spent on the digests of photographs and label files; 0 for the loop."""
    parts = [pq.read_table(file, columns=["seconds"]) for file in folder.rglob("records/*.parquet")]
    return float(sum(dict(seconds).get("digest", 0.0) for part in parts for seconds in part["seconds"].to_pylist()))


def _ray(task: dict[str, str], images: int, folder: Path) -> float:
    from rich.console import Console

    from ovss_ray.config import loading
    from ovss_ray.engine import evaluate
    from ovss_ray.engine.display import Display
    from ovss_ray.runs.plan import plan_run

    options = {"variant": task["variant"], "weights": task["weights"]}
    stages = [{"use": "san", "options": options}]
    if task["side"] == "ray, one pool":
        save = {"use": "save", "options": {"folder": str(folder)}}
        stages = [{**one, "options": options} if one["use"] == "san" else one for one in [*ONE_POOL, save]]
    cpus = int(os.environ["OMP_NUM_THREADS"]) - SHARED  # its threads are that number, rounded up
    pool = {"workers": 1, "cpus": cpus, "gpus": 0, "stages": stages}
    raw = {"benchmarks": [task["benchmark"]], "data_root": task["root"], "limit": images, "pools": [pool]}
    report = evaluate.run(plan_run(loading.validate(raw, "perf"), str(folder)), Display(Console(quiet=True)))
    return float(report.benchmarks[task["benchmark"]].metrics["miou"] or math.nan)


def _loop(task: dict[str, str], images: int, folder: Path) -> float:
    import pyarrow as pa
    import torch

    from ovss_ray.actors.save import encode
    from ovss_ray.benchmarks import catalog
    from ovss_ray.io import files
    from ovss_ray.metrics.confusion import Counter, Partial, schema
    from ovss_ray.models.san import network

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    benchmark = catalog.load(task["benchmark"])
    model, count = network.load(task["variant"], [Path(task["weights"])]), Counter(len(benchmark.labels))
    cells = []
    predictions = folder / files.plain(task["benchmark"]) / "predictions"
    for item in list(benchmark.items(task["root"], benchmark.split))[:images]:
        photograph = benchmark.image(item, files.read(item.image))
        prediction = model.segment(photograph, benchmark.vocabulary)
        cells.append(count(benchmark.truth(item, files.read(item.truth)), prediction))
        files.write(str(predictions / f"{item.image_id}.png"), encode(prediction))
    return Partial.of(pa.array(cells, schema), len(benchmark.labels)).miou
