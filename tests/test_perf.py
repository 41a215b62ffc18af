"""The scripts of perf/ run, and the sides that they compare agree. How fast anything is, is never asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perf import manifest, scale
from perf.run import cpu_seconds
from tests.paths import ROOT

TOYS = {
    "san": ["--variant", "san_tiny", "--size", "48x64", "--classes", "3"],
    "int8": ["--scenes", "1", "--network", "san_tiny", "--no-large"],
    "scan": ["--variant", "scan_tiny", "--size", "48x64", "--classes", "3"],
    "fusioner": ["--variant", "fusioner_tiny", "--size", "100x150"],
    "semantic": ["--classes", "3", "--size", "40x60"],
    "sam": ["--variant", "sam_tiny", "--size", "48x64", "--points", "2"],
    "sam-encoder": ["--variant", "sam_tiny", "--images", "2", "--no-compiled"],
    "counting": ["--classes", "20", "--size", "40x60"],
    "decode": ["--drawn"],
    "listing": ["--megabytes", "1"],
    "prompt": ["--size", "48x64", "--benchmark", "scenes:instances"],
    "words": ["--images", "25", "--each", "2", "--names", "9"],
}
OTHERS = {
    "names": ["--classes", "2000", "--masks", "50"],
    "bootstrap": ["--images", "300", "--sets", "20", "--tests", "3"],
    "reduce": ["--records", "600", "--rows", "100"],
}
"""Scripts that have no rounds; those of Ray are below"""
ALL_IN_ONE = """
import json, sys
from typer.testing import CliRunner
from perf.__main__ import app
done = {}
for name, arguments in json.loads(sys.argv[1]).items():
    result = CliRunner().invoke(app, [name, *arguments])
    done[name] = [result.exit_code, f"{result.output} {result.exception or ''}"]
print(json.dumps(done))
"""
"""A program for all scripts without Ray: each process of its own would take seconds to import what they share"""


@pytest.fixture(scope="module")
def tables() -> dict[str, tuple[int, str]]:
    """Script → exit status, and what it has printed."""
    scripts = {name: [*arguments, "--rounds", "1"] for name, arguments in TOYS.items()} | OTHERS
    command = [sys.executable, "-c", ALL_IN_ONE, json.dumps(scripts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": "local", "COLUMNS": "200"}


def perf(*arguments: str) -> str:
    command = [sys.executable, "-m", "perf", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_each_script_prints_its_table_and_finds_that_the_sides_agree(
    name: str, tables: dict[str, tuple[int, str]]
) -> None:
    status, shown = tables[name]
    assert status == 0, shown
    assert "median (quartiles)" in shown
    assert "1 threads" in shown


@pytest.mark.slow
def test_the_table_of_names_has_the_size_of_embeddings_and_scores(tables: dict[str, tuple[int, str]]) -> None:
    _, shown = tables["names"]
    row = next(line for line in shown.splitlines() if line.startswith("│ 2,000"))
    assert [row.split("│")[column].strip() for column in (3, 6)] == ["6.1", "0.4"]


@pytest.mark.slow
def test_the_simulation_of_the_bootstrap_covers_what_is_certain(tables: dict[str, tuple[int, str]]) -> None:
    _, shown = tables["bootstrap"]
    row = next(line for line in shown.splitlines() if line.startswith("│ pacc"))
    assert float(row.split("│")[5]) >= 75, "20 intervals of 95 %"
    assert "3 pairs of runs on 300 images" in shown


@pytest.mark.slow
def test_the_reduction_counts_every_record_once_and_names_its_cost(tables: dict[str, tuple[int, str]]) -> None:
    _, shown = tables["reduce"]
    row = next(line for line in shown.splitlines() if line.startswith("│ 600"))
    assert [part.strip() for part in row.split("│")[1:3]] == ["600", "6"], "records and files"


def test_the_steady_part_of_a_run_gives_rate_and_cpu_seconds_per_batch() -> None:
    marks = [(float(second), 0.4 * second, 8 * second) for second in range(1, 101)]
    rate, driver, ledger = scale.steady(marks, [(0.0, 0.0), (100.0, 40.0)], images=800)
    assert rate == pytest.approx(8)
    assert driver == ledger == pytest.approx(0.4 / scale.POOLS), "a batch of eight each second, in each pool"


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_faked_gpus_scores_all_images_and_fills_every_cell() -> None:
    shown = perf("scale", "--gpus", "2", "--seconds", "0.5", "--batches", "8")
    row = next(line for line in shown.splitlines() if line.startswith("│ 128"))
    cells = [float(cell.replace(",", "")) for cell in row.split("│")[1:-1]]
    assert len(cells) == 8
    assert all(cell > 0 for cell in cells[:6]), "the peak of a short run's object store may be missed"


@pytest.mark.ray
@pytest.mark.slow
def test_the_ray_run_and_the_plain_loop_give_the_same_label_maps() -> None:
    few = ["--images", "2", "--few", "0", "--rounds", "1", "--no-one-pool"]
    shown = perf("run", "--variant", "san_tiny", "--drawn", *few)
    assert "loop" in shown
    assert "ray" in shown


BURN = "import time\nwhile time.process_time() < 1.5: pass"


def test_what_a_child_s_child_uses_is_counted_and_a_failure_is_told() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    looks = iter(range(1000))
    (count, early), (_, late) = cpu_seconds([sys.executable, "-c", parent], dict(os.environ), lambda: next(looks), [0])
    assert count == 0
    assert sum(early.values()) < sum(late.values())
    assert sum(late.values()) > 1
    with pytest.raises(RuntimeError, match="no such thing"):
        cpu_seconds([sys.executable, "-c", "raise SystemExit('no such thing')"], dict(os.environ))


def test_the_steps_that_read_a_manifest_are_measured_on_a_finished_run(tmp_path: Path) -> None:
    manifest.write(tmp_path, 40)
    for step in manifest.STEPS:
        assert json.loads(manifest.side(str(tmp_path), step)).keys() == {"seconds", "bytes", "own"}
