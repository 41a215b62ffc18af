"""The command line: what a user sees, and the exit status that a script sees."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ovss


def test_an_error_of_a_process_is_one_message_and_status_two() -> None:
    command = [sys.executable, "-m", "ovss_ray", "report", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ovss: nowhere: not the folder of a run")
    assert done.stderr.count("\n") == 1


def test_a_folder_for_the_run_that_cannot_be_made_is_named(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file/run"
    done = ovss(
        "evaluate", "oracle", "--benchmark", "camvid", "--data-root", str(shared / "data/real"), "--out", str(out)
    )
    assert done.returncode == 2
    assert f"ovss: {out}/" in done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_everything_there_is_is_listed() -> None:
    shown = ovss("list").stdout
    for name in ("ade20k:150", "ade20k:847", "camvid", "folder:FILE.yaml", "oracle", "predictions", "san_vit_large_14"):
        assert name in shown
    for stage in ("decode", "measure", "san", "save", "truth"):
        assert f"│ {stage} " in shown


def test_one_thing_may_be_listed_and_published_figures_are_listed_when_asked_for() -> None:
    shown = ovss("list", "weights").stdout
    assert "san_vit_large_14" in shown
    assert "ade20k" not in shown
    shown = ovss("list", "metrics").stdout
    for words in (
        "│ confusion ",
        "│ truth prediction ",
        "miou_classic",
        "│ proposal_recall ",
        "proposal_best_iou",
        "│ sg_iou ",
    ):
        assert words in shown
    assert "_counting" not in shown
    shown = ovss("list", "published", "--benchmark", "pascal_context:459").stdout
    assert "Published mIoU for pascal_context:459: 52" in shown
    rows = [line for line in shown.splitlines() if line.startswith("│ SAN ")]
    assert [row.split("│")[4].strip() for row in rows] == ["20.8311", "16.7053", "15.7", "12.6"]
    assert [row.split("│")[5].strip() for row in rows] == ["miou", "miou", "miou_classic", "miou_classic"]
    shown = ovss("list", "published").stdout
    assert "Published mIoU: 618" in shown
    assert "Published without given class names: 43" in shown
    assert "Published" not in ovss("list").stdout


def test_the_doctor_says_what_is_here_and_what_is_not(shared: Path) -> None:
    done = ovss("doctor", "--data-root", str(shared / "data/real"))
    assert "camvid val: 101 of 101 images" in done.stdout
    assert "ade20k:150 val: 3 of 2000 images: complete the data" in done.stdout
    assert done.returncode == 1


def test_the_doctor_warns_of_a_cluster_without_a_token() -> None:
    done = ovss("doctor", RAY_ADDRESS="ray://10.0.0.1:10001", RAY_AUTH_MODE="")
    assert "reached without a token. Set RAY_AUTH_MODE=token" in done.stdout
    assert done.returncode == 1
    assert ovss("doctor", RAY_ADDRESS="ray://10.0.0.1:10001", RAY_AUTH_MODE="token").returncode == 0


def test_weights_that_cannot_be_had_come_with_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    missing = ovss("weights", "fetch", "san_vit_b_16", OVSS_WEIGHTS=str(tmp_path))
    assert missing.returncode == 2
    for words in (str(tmp_path), "huggingface.co/Mendel192/san", "OVSS_WEIGHTS", "ovss weights fake san_vit_b_16"):
        assert words in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "san_vit_b16"], "unknown config 'san_vit_b16'. Did you mean 'san_vit_b_16'?"),
        (["evaluate", "oracle"], "no benchmark: pass --benchmark NAME"),
        (["evaluate", "oracle", "--benchmark", "camvid"], "pass --data-root DIR or set OVSS_DATA=DIR"),
        (["evaluate", "oracle", "--benchmark", "camvid", "--data-root", "/"], "git clone"),
        (["evaluate", "oracle", "--benchmark", "folder:none.yaml", "--data-root", "."], "none.yaml: cannot be read"),
        (["report", "nowhere"], "nowhere: not the folder of a run"),
        (["compare", "nowhere", "elsewhere"], "nowhere: not the folder of a run"),
        (["compare", "one", "one"], "at least two different runs"),
        (["weights", "fake", "san_vit_b16"], "Did you mean 'san_vit_b_16'?"),
        (["weights", "fetch", "sam"], "unknown checkpoint 'sam'"),
        (["list", "publishd"], "unknown list 'publishd'. Did you mean 'published'?"),
        (["list", "published", "--benchmark", "ade20k:848"], "unknown benchmark 'ade20k:848'. Did you mean"),
        (["list", "--benchmark", "ade20k:847"], "run `ovss list published --benchmark ade20k:847`"),
    ],
)
def test_a_wrong_command_ends_in_one_message_and_status_two(arguments: list[str], message: str) -> None:
    done = ovss(*arguments, OVSS_DATA="")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("address", "left"), [("local", "False"), ("10.0.0.1:6379", "True")])
def test_on_this_machine_uv_run_does_not_send_the_folder_to_the_workers(address: str, left: str) -> None:
    asks = (
        "from ovss_ray.engine.cluster import ray_internals; ray_internals.prepare_import(); "
        "from ray._private import ray_constants as ray"
    )
    command = [sys.executable, "-c", f"{asks}; print(ray.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    environment["RAY_ADDRESS"] = address
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == left


def test_the_help_says_what_holds_where_nothing_is_given() -> None:
    shown = " ".join(ovss("evaluate", "--help").stdout.replace("│", " ").split())
    assert "[default: $OVSS_DATA]" in shown
    assert "[default: runs/CONFIG-BENCHMARKS]" in shown


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_below_one_is_an_error_of_the_command(limit: str, shared: Path) -> None:
    done = ovss("check", "camvid", "--data-root", str(shared / "data/real"), "--limit", limit)
    assert done.returncode == 2
    assert "Invalid value for '--limit'" in done.stderr
    assert "Traceback" not in done.stderr
