"""What `import ovss_ray` offers: names, signatures, laziness, errors, and real runs of each."""

import inspect
import logging
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

import ovss_ray
from ovss_ray import models
from ovss_ray.config import loading
from ovss_ray.engine import trackers
from ovss_ray.engine.display import Display
from ovss_ray.engine.progress import Counts
from ovss_ray.runs.plan import RunPlan
from ovss_ray.runs.sources import plan_runs
from tests.paths import ROOT

pytestmark = pytest.mark.ray
OLD = ROOT / "tests/data/old_runs"
NAMES = ["Client", "OvssError", "Report", "RunConfig", "Vocabulary", "check", "compare", "evaluate", "load_model"]


def test_the_offered_names_are_these() -> None:
    assert sorted(ovss_ray.__all__) == NAMES == sorted(ovss_ray._PLACES)
    assert set(NAMES) <= set(dir(ovss_ray))
    assert all(getattr(ovss_ray, name).__doc__ for name in NAMES)


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ovss_ray' has no attribute 'evalute'"):
        ovss_ray.evalute  # noqa: B018 # type: ignore[attr-defined]


def test_loading_a_model_has_one_documented_name_and_the_promised_one() -> None:
    assert ovss_ray.load_model is models.load


def test_the_signatures_are_those_that_are_documented() -> None:
    assert str(inspect.signature(ovss_ray.check)).startswith("(benchmark: str, data_root: str | pathlib.Path | None")
    parameters = inspect.signature(ovss_ray.evaluate).parameters
    assert [*parameters] == [
        *("config", "benchmarks", "data_root", "out", "split", "ids", "limit", "exact", "relations", "vocabulary"),
        *("wait_for", "overrides", "progress", "track"),
    ]
    assert [name for name, one in parameters.items() if one.default is inspect.Parameter.empty] == ["config"]
    assert typing.get_type_hints(ovss_ray.evaluate)["return"] is ovss_ray.Report
    shared = set(parameters) - {"config"}
    own = {*inspect.signature(ovss_ray.compare).parameters} - {"runs", "selection"}
    (selection,) = typing.get_args(typing.get_type_hints(ovss_ray.compare)["selection"])
    assert own | set(typing.get_type_hints(selection)) == shared, "compare takes what evaluate takes"


@pytest.mark.parametrize("used", ["ovss_ray.evaluate", "ovss_ray.compare", "ovss_ray.check", "ovss_ray.Report"])
def test_a_name_costs_neither_torch_nor_ray_before_it_is_called(used: str) -> None:
    script = f"import sys, ovss_ray; before = len(sys.modules); {used}; print([n for n in HEAVY if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = ('torch', 'ray', 'open_clip', 'numba', 'cv2'); {script}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("san_vit_b16",), {}, r"san_vit_b16'\. Did you mean 'san_vit_b_16'\?"),
        (("oracle",), {"out": "x"}, "no benchmark"),
        (("oracle", "camvd"), {"out": "x"}, "Did you mean 'camvid'"),
        (("oracle", "camvid"), {"out": "x"}, "--data-root"),
        (("oracle", "camvid"), {"data_root": "/nowhere"}, "git clone"),
        (("oracle", "scenes:seen"), {"limit": 0}, "limit: expected a number from 1"),
        (("oracle", "scenes:seen"), {"split": "tset"}, "tset"),
        (("oracle", "scenes:seen"), {"ids": "none.txt"}, "none.txt"),
        (("san_tiny", "scenes:seen"), {"overrides": {"san.varient": "x"}}, "Did you mean 'variant'"),
        (("san_tiny", "scenes:seen"), {"overrides": ["san.precision"]}, "KEY.SUB=VALUE"),
        (("san_tiny", "scenes:seen"), {"overrides": "san.precision=bf16"}, "a list such as"),
        (("san_tiny", "scenes:seen"), {"overrides": {"san.batch": object()}}, "a plain value"),
        (({"poools": []},), {"out": "x"}, "Did you mean 'pools'"),
        (({"pools": [{"stages": [{"use": "oracle"}]}]}, "scenes:seen"), {}, "Pass out=DIR"),
        (("default",), {"limit": 1}, r"2 configs: san_tiny, sam_alpha_clip_tiny\. .*ovss_ray\.compare"),
    ],
)
def test_wrong_arguments_are_the_errors_of_the_command(
    arguments: tuple[typing.Any, ...],
    options: dict[str, typing.Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVSS_DATA", raising=False)
    with pytest.raises(ovss_ray.OvssError, match=message):
        ovss_ray.evaluate(*arguments, **options)
    assert not [*tmp_path.iterdir()], "nothing is written before the arguments are right"


def plan(config: typing.Any, **options: typing.Any) -> RunPlan:
    options = {"out": "runs/mine", "overrides": (), "settings": {"benchmarks": "scenes:seen"}, **options}
    (planned,) = plan_runs(config, **options).values()
    return planned


def test_a_config_is_the_same_by_name_by_file_as_a_mapping_and_as_an_object() -> None:
    file = ROOT / "configs/san_tiny.yaml"
    config = loading.load(file)
    named = plan("san_tiny")
    for source in (file, str(file), loading.read(file), config):
        assert plan(source).config == named.config
        assert plan(source).identity() == named.identity()


def test_overrides_are_typed_as_after_set_or_given_as_a_mapping() -> None:
    typed = plan("san_tiny", overrides=["san.precision=bf16", "pools.0.batch=4", "san.exact=true", "deadline=1e-05"])
    given = {"san.precision": "bf16", "pools.0.batch": 4, "san.exact": True, "deadline": 1e-05}
    assert plan("san_tiny", overrides=given).config == typed.config
    assert typed.config.deadline == 1e-05
    with pytest.raises(ovss_ray.OvssError, match="/with a # in it: not found"):
        plan("predictions", overrides={"predictions.path": Path("with a # in it")})


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"benchmarks": ["scenes:seen"]}, "runs/san_tiny-scenes-seen"),
        ({"benchmarks": ("scenes:seen", "scenes:all"), "limit": 3}, "runs/san_tiny-scenes-seen-scenes-all-first-3"),
        ({"benchmarks": "scenes:seen", "split": "validation"}, "runs/san_tiny-scenes-seen-validation"),
    ],
)
def test_the_default_folder_names_the_request(
    given: dict[str, typing.Any], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan("san_tiny", out=None, settings=given).folder.uri == str(tmp_path / folder)


def test_reports_of_folders_are_compared_and_named_as_they_were_given(tmp_path: Path) -> None:
    runs = [shutil.copytree(OLD / f"{name}-finished", tmp_path / name) for name in ("san_tiny", "sam_alpha_clip_tiny")]
    reports = ovss_ray.compare(*runs)
    assert [*reports] == [str(run) for run in runs]
    for run, report in reports.items():
        assert report.benchmarks["scenes:seen"].images.scored == 4
        assert report == ovss_ray.Report.load(run)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (("nowhere", "elsewhere"), r"nowhere: not the folder of a run .* no config"),
        ((str(OLD / "san_tiny-finished"),) * 2, "at least two different runs"),
        ((str(OLD / "san_tiny-finished"),), "at least two different runs"),
    ],
)
def test_what_cannot_be_compared_is_an_error(runs: tuple[str, ...], message: str) -> None:
    with pytest.raises(ovss_ray.OvssError, match=message):
        ovss_ray.compare(*runs)


def test_finished_runs_are_not_sent_to_trackers_by_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "parse", lambda names: (trackers.Choice(names, ""),))  # perhaps not installed
    runs = [OLD / f"{name}-finished" for name in ("san_tiny", "sam_alpha_clip_tiny")]
    with pytest.raises(ovss_ray.OvssError, match=r"run `ovss report \S+san_tiny-finished --track tensorboard`"):
        ovss_ray.compare(*runs, track="tensorboard")


def test_a_check_returns_its_findings_and_prints_nothing(
    shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    right = ovss_ray.check("camvid", shared / "data/real", limit=4)
    assert (right.benchmark, right.split, right.images, right.number) == ("camvid", "val", 4, 0)
    assert "camvid, split val: 4 images" in right.summary
    photograph = next((shared / "data/real").rglob("CamVid/val/*.png"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "photos/a.png").write_bytes(photograph.read_bytes())
    (tmp_path / "labels/a.png").write_bytes(b"")
    (tmp_path / "mine.yaml").write_text("{images: photos/*, labels: labels/*, classes: [a, b]}")
    wrong = ovss_ray.check(f"folder:{tmp_path}/mine.yaml", tmp_path)
    assert wrong.number >= 1
    assert any(fault.sure and fault.file.endswith("labels/a.png") for fault in wrong.faults)
    assert any(line.startswith("fault: ") and "labels/a.png" in line for line in wrong.lines)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ovss_ray.OvssError, match="limit: expected a whole number of at least 1, found 0"):
        ovss_ray.check("camvid", shared / "data/real", limit=0)
    with pytest.raises(ovss_ray.OvssError, match="Did you mean 'camvid'"):
        ovss_ray.check("camvit", "/data")


def test_a_loaded_model_segments_a_photograph_by_words() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    labels = ovss_ray.load_model("san_tiny").segment(photograph, ovss_ray.Vocabulary.of(["road", ["tree", "bush"]]))
    assert (labels.shape, labels.dtype) == ((48, 64), np.uint16)
    assert set(np.unique(labels)) <= {0, 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ovss_ray.Report, tuple[str, str]]:
    """A finished run of four images: its folder, its report, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "san_tiny"
    script = "import ovss_ray; ovss_ray.evaluate('san_tiny', benchmarks=['scenes:seen'], limit=4, out={!r})"
    command = [sys.executable, "-c", script.format(str(folder))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, cwd=ROOT)
    return folder, ovss_ray.Report.load(folder), (done.stdout, done.stderr)


def test_a_run_starts_its_own_ray_returns_its_report_and_prints_nothing(
    finished: tuple[Path, ovss_ray.Report, tuple[str, str]],
) -> None:
    folder, report, printed = finished
    benchmark = report.benchmarks["scenes:seen"]
    assert (benchmark.images.expected, benchmark.images.scored, benchmark.selection.limit) == (4, 4, 4)
    assert report.final
    assert report.lacking == ()
    old = ovss_ray.Report.load(OLD / "san_tiny-finished").benchmarks["scenes:seen"]
    assert benchmark.metrics["miou"] == pytest.approx(old.metrics["miou"], abs=0.5), "the same four images"
    assert ovss_ray.Report.load(folder) == report
    assert printed == ("", "")


def test_the_same_call_does_nothing_again_and_shows_it_if_it_should(
    finished: tuple[Path, ovss_ray.Report, tuple[str, str]], cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, report, _ = finished
    written = {file: file.stat().st_mtime_ns for file in folder.rglob("records/*.parquet")}
    again = ovss_ray.evaluate("san_tiny", "scenes:seen", limit=4, out=folder, progress=True)
    assert again.benchmarks == report.benchmarks
    assert written == {file: file.stat().st_mtime_ns for file in folder.rglob("records/*.parquet")}
    assert "4 of 4 images have a record already" in capfd.readouterr().err
    with pytest.raises(ovss_ray.OvssError, match="limit: 4 there, 3 now"):
        ovss_ray.evaluate("san_tiny", "scenes:seen", limit=3, out=folder)


def test_a_finished_run_gets_an_sg_iou_without_any_image_being_computed(
    finished: tuple[Path, ovss_ray.Report, tuple[str, str]], cluster: None, tmp_path: Path
) -> None:
    folder, report, _ = finished
    copy = shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "relations.yaml").write_text("scenes:seen: {sunset: sky}")
    arguments = {"limit": 4, "out": copy, "relations": tmp_path / "relations.yaml"}
    again = ovss_ray.evaluate("san_tiny", "scenes:seen", **arguments).benchmarks["scenes:seen"]
    plain = report.benchmarks["scenes:seen"].metrics
    assert {key: again.metrics[key] for key in plain} == plain
    assert again.metrics["sg_miou"] is not None
    assert again.relations is not None
    assert again.relations.pairs == 1


@pytest.mark.slow
def test_configs_are_evaluated_side_by_side_and_a_listener_counts_each(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "truth.yaml").write_text("pools: [{stages: [{use: oracle}]}]")
    listener = Counts()
    reports = ovss_ray.compare(
        *("oracle", tmp_path / "truth.yaml"),
        benchmarks="scenes:seen",
        limit=2,
        out=tmp_path / "runs",
        overrides={"keep_predictions": "none"},
        progress=listener,
    )
    assert {name: report.benchmarks["scenes:seen"].metrics["miou"] for name, report in reports.items()} == {
        "oracle": 100.0,
        "truth": 100.0,
    }
    assert (listener.total, listener.done, listener.earlier, listener.failed) == (2, 2, 0, 0)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["oracle", "truth"]
    folders = ovss_ray.compare(tmp_path / "runs/oracle", tmp_path / "runs/truth")
    assert [*folders.values()] == [*reports.values()]


def test_sentences_of_a_silent_run_are_warnings_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Counts().say("a node was lost")
    assert caplog.record_tuples == [("ovss_ray", logging.WARNING, "a node was lost")]
    assert isinstance(Display(), Counts)
