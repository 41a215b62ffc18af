"""A metric of a user's own: how it is found, checked, recorded, and refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray import metrics, registry
from ovss_ray.actors import measure
from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.runs import records
from ovss_ray.runs.complete import complete
from ovss_ray.runs.plan import plan_run
from ovss_ray.structures.columns import IGNORE, NONE, Batch
from tests.metrics.dice import SOURCE
from tests.paths import ROOT

pytestmark = pytest.mark.ray


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with a metric, `dice`, and of a module that is none, `empty`."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "dice.py").write_text(SOURCE)
    (tmp_path / name / "empty.py").write_text("reads = ()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def measuring(*names: str) -> Stage:
    """The stage `measure` with some metrics, for images of CamVid."""
    return StageConfig(use="measure", options={"metrics": names}).build(benchmarks={"camvid": catalog.load("camvid")})


def config(*names: str, use: str = "oracle", **options: Any) -> dict[str, Any]:
    return {"metrics": list(names), "pools": [{"stages": [{"use": use, "options": options}]}]}


def test_a_metric_is_part_of_a_run_s_identity_only_if_it_is_named(package: str, tmp_path: Path) -> None:
    def identity(*names: str) -> dict[str, Any]:
        raw = {**config(*names), "benchmarks": ["scenes:seen"], "limit": 1}
        return plan_run(loading.validate(raw, "test"), str(tmp_path / "out")).identity()

    assert "metrics" not in identity()
    assert identity(f"{package}.dice") == {**identity(), "metrics": [f"{package}.dice"]}


def test_the_stage_measure_has_the_same_identity_with_any_metrics(tmp_path: Path) -> None:
    chain = [{"use": use} for use in ("decode", "truth", "oracle", "measure")]
    raw = {"pools": [{"stages": chain}], "benchmarks": ["scenes:seen"], "limit": 1}
    identity = plan_run(loading.validate(raw, "test"), str(tmp_path / "out")).identity()
    assert identity["stages"][-1] == {"use": "measure", "options": {}}


def test_modules_that_begin_with_an_underscore_are_no_metrics() -> None:
    known = (*metrics.built_in(), *metrics.derived())
    assert registry.known("ovss_ray.metrics") == sorted(metric.name for metric in known)
    assert (Path(metrics.__file__).parent / "_counting.py").exists()
    assert [metric.name for metric in metrics.built_in()][:2] == ["confusion", "instance_iou"]  # by `order`


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nowhere.metric"], "metrics: no module named 'nowhere.metric' on the Python path"),
        (["OWN.empty"], r"metrics: module 'OWN\.empty' has no attribute 'headings'"),
        (["proposal_recal"], "metrics: unknown metric 'proposal_recal'. Did you mean 'proposal_recall'"),
        (["confusion"], "metrics: the metric confusion is built in: it runs in every run"),
        (["OWN.dice", "OWN.dice"], r"metrics: the metric OWN\.dice has a value named 'dice', but OWN\.dice already"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_with_the_config(package: str, names: list[str], message: str) -> None:
    with pytest.raises(OvssError, match=message.replace("OWN", package)):
        loading.validate(config(*(name.replace("OWN", package) for name in names)), "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('headings = {"miou": "x"}', "a value named 'miou', but confusion already has"),
        ('class_headings = {"iou": "x"}', "a value named 'iou' of each class, but confusion already has"),
        ('class_headings = {"sg_iou": "x"}', "a value named 'sg_iou' of each class, but sg_iou already has"),
        ('class_headings = {"name": "x"}', "a value named 'name' of each class, but the report already has"),
        ('group_headings = {"miou": "x"}', "a value named 'miou' of groups, but confusion already has"),
        ('group_headings = {"pooled_iou": "x"}', "a value named 'pooled_iou' of groups, but confusion already has"),
        ('group_counts = {"in_truth": "x"}', "a value named 'in_truth' of groups, but confusion already has"),
        ('counts = {"episodes": "x"}', "a value named 'episodes' among its counts, but episodes already has"),
    ],
)
def test_a_metric_that_would_overwrite_a_value_is_refused(
    tmp_path: Path, package: str, line: str, message: str
) -> None:
    (tmp_path / package / "taken.py").write_text(f"{SOURCE}\n{line}\n")
    with pytest.raises(OvssError, match=message):
        metrics.load_own((f"{package}.taken",))


def test_a_metric_may_use_its_names_in_every_table(tmp_path: Path, package: str) -> None:
    lines = 'class_headings = {"dice": "x", "miou": "x"}\ngroup_headings = {"dice": "x"}\ncounts = {"dice": "x"}\n'
    (tmp_path / package / "free.py").write_text(f"{SOURCE}\n{lines}")
    assert [metric.name for metric in metrics.load_own((f"{package}.free",))] == [f"{package}.free"]


def test_a_metric_without_confusion_cells_cannot_be_resampled(tmp_path: Path, package: str) -> None:
    (tmp_path / package / "again.py").write_text(f"{SOURCE}\nclass Resampled: ...\n")
    with pytest.raises(OvssError, match=r"defines `Resampled`\. Only confusion and metrics derived from it"):
        metrics.load(f"{package}.again")
    resampled = {metric.name for metric in (*metrics.built_in(), *metrics.derived()) if metric.Resampled}
    assert resampled == {"confusion", "episodes"}


def test_a_metric_whose_columns_nobody_writes_is_refused_before_the_run(tmp_path: Path, package: str) -> None:
    (tmp_path / package / "regions.py").write_text(SOURCE.replace('"truth", "prediction"', '"truth", "boxes"'))
    raw = config(f"{package}.regions")
    with pytest.raises(OvssError, match=rf"metric '{package}\.regions' needs columns \['boxes'\], which no stage"):
        complete(loading.validate(raw, "test"))


def test_a_metric_that_looks_at_photographs_has_them_decoded(tmp_path: Path, package: str) -> None:
    (tmp_path / package / "bright.py").write_text(SOURCE.replace('"truth", "prediction"', '"truth", "image"'))
    raw = config(f"{package}.bright", use="predictions", path="labels")
    pools = complete(loading.validate(raw, "test"))
    assert [stage.use for stage in pools[0].stages] == ["decode"]


def test_a_metric_on_request_is_measured_and_recorded_only_if_the_config_lists_it() -> None:
    def listed(*names: str) -> list[str]:
        pools = complete(loading.validate(config(*names), "test"))
        return list(pools[-1].stages[-1].options["metrics"])

    assert listed() == ["confusion"]
    assert listed("trimap", "boundary_iou") == ["confusion", "trimap", "boundary_iou"]
    with pytest.raises(OvssError, match="type: ovss report RUN --metrics mmseg"):
        listed("mmseg")
    maps = np.zeros((2, 3, 4), np.uint16)
    done = execution.run({"measure": measuring("confusion", "trimap")}, rows(*maps), {})
    table = records.table(done)
    assert set(table.column_names) == {*records.SCHEMA.names, "trimap", "benchmark"}
    assert table["trimap"].to_pylist() == [{"pixels": [0] * 5, "hits": [0] * 5}]


def test_the_stage_measure_takes_no_metrics_from_a_config(package: str) -> None:
    raw = config(use="measure", metrics=[f"{package}.dice"])
    with pytest.raises(OvssError, match="list your metrics under `metrics:` in the config"):
        complete(loading.validate(raw, "test"))


def rows(truth: np.ndarray, prediction: np.ndarray) -> Batch:
    return execution.start(1, truth=[truth], prediction=[prediction], benchmark=["camvid"], truth_uri=["a.png"])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            '{"common": common}',
            r"returned the fields \['common'\], expected .*: \['areas', 'common'\]",
        ),
        ('{"common": "many", "areas": areas}', "returned values that do not fit `schema`"),
    ],
    ids=["fields", "types"],
)
def test_what_a_schema_cannot_hold_costs_the_image_only(
    tmp_path: Path, package: str, returned: str, message: str
) -> None:
    (tmp_path / package / "wrong.py").write_text(SOURCE.replace('{"common": common, "areas": areas}', returned))
    done = execution.run(
        {"measure": measuring("confusion", f"{package}.wrong")}, rows(*np.zeros((2, 3, 4), np.uint16)), {}
    )
    assert re.match(rf"measure: a\.png: `measure` of the metric {package}\.wrong {message}", done["error"][0])


def test_what_nothing_can_be_measured_of_is_null_in_the_record(package: str) -> None:
    name, ignored = f"{package}.dice", np.full((3, 4), IGNORE, np.uint16)
    done = execution.run({"measure": measuring("confusion", name)}, rows(ignored, np.zeros((3, 4), np.uint16)), {})
    assert done["error"][0] == ""
    assert records.table(done)[name].to_pylist() == [None]


def test_an_unknown_metric_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="unknown metric 'mystery'"):
        metrics.load("mystery")


def test_measure_writes_what_its_metrics_are_called() -> None:
    assert measure.Stage(measure.Stage.Config()).writes == ("confusion",)
    both = measure.Stage.Config(metrics=("confusion", "proposal_recall"))
    assert set(measure.Stage(both).reads) == {"benchmark", "part", "truth_uri", "truth", "prediction", "boxes", "bits"}


def test_the_metric_of_the_documentation_counts_named_pixels(package: str, tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_metric.md").read_text(), re.DOTALL)
    (tmp_path / package / "named.py").write_text(source)
    (metric,) = metrics.load_own((f"{package}.named",))
    truth = np.array([[0, 1, 1, IGNORE, 0]], np.uint16)
    done = execution.run(
        {"measure": measuring(metric.name)}, rows(truth, np.array([[0, NONE, 2, 1, 0]], np.uint16)), {}
    )
    column = records.table(done)[metric.name]
    assert column.to_pylist() == [{"named": 3, "counted": 4}]
    twice = metric.partial(column, 11) + metric.partial(column, 11)
    assert twice.result() == {"named": 75.0}
