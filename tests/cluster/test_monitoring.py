"""Prometheus and Grafana: every metric and label of the dashboard is exported by the service or by Ray."""

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.reporter import reporter_agent

from ovss_ray.engine.pools import gauges
from tests.cluster.manifests import CLUSTER, documents
from tests.serve.bright import picture
from tests.serve.http.test_api import encoded, form
from tests.serve.http.test_metrics import watched

DASHBOARD = json.loads((CLUSTER / "monitoring/grafana_dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
WORDS = {"sum", "max", "by", "rate", "count", "histogram_quantile", "le", "job"}
RAY_CORE = {"ray_object_store_memory": {"Location"}}
"""Metrics of Ray's C++ code → labels; Ray's own dashboard uses them."""


def exported() -> Mapping[str, set[str]]:
    """Name → labels of the metrics in a scrape of the service."""
    asking = TestClient(watched(), base_url="http://localhost", client=("127.0.0.1", 1))
    asking.post("/v1/segment", **form(encoded(picture(8, 8)), classes=["bright", "dark"]))
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(asking.get("/metrics").text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def of_runs() -> dict[str, set[str]]:
    """Name → labels of the metrics of runs. tests/test_jobs.py finds them in a scrape of Ray during a run."""
    suffixes = {name: "_total" if kind.counter else "" for name, kind in gauges.KINDS.items()}
    names = {name: f"ray_{gauges.PREFIX}{name}{suffix}" for name, suffix in suffixes.items()}
    return {names[name]: {gauges.RUN, *kind.labels} for name, kind in gauges.KINDS.items()}


def of_ray() -> set[str]:
    """The metrics of Ray itself on the dashboard. test_autoscaling.py finds them in a scrape of a node."""
    used = {name for expression in EXPRESSIONS for name in re.findall(r"\bray_\w+", expression)}
    return used - of_runs().keys()


def test_every_metric_is_exported_with_its_labels() -> None:
    service = exported()
    nodes, runs = {f"ray_{name}" for name in reporter_agent.METRICS_GAUGES}, of_runs()
    used = set()
    for expression in EXPRESSIONS:
        for name in re.findall(r"\b(?:ovss|process|ray)_\w+", expression):
            used.add(name)
            assert name in service or name in nodes or name in runs or name in RAY_CORE, name
    assert {name for name in service if name.startswith("ovss_")} - used <= {
        name for name in service if re.search(r"_(created|bucket|sum|count|total)$", name)
    }, "every metric of the service is on the dashboard"
    assert any(name in nodes for name in used)
    assert runs.keys() <= used, "every metric of runs is on the dashboard"


def test_labels_and_functions_are_known() -> None:
    service = {label for labels in exported().values() for label in labels}
    further = (label for labels in (*RAY_CORE.values(), *of_runs().values()) for label in labels)
    known = service | set(further) | WORDS
    for expression in EXPRESSIONS:
        plain = re.sub(r'"[^"]*"|\$__rate_interval|\b(?:ovss|process|ray)_\w+', "", expression)
        for word in re.findall(r"[A-Za-z_]\w*", plain):
            assert word in known, f"{word} in {expression}"


def test_metrics_of_rays_core_are_in_rays_own_dashboard() -> None:
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

    source = inspect.getsource(default_dashboard_panels)
    for name, labels in RAY_CORE.items():
        assert name in source
        assert all(label in source for label in labels)


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_ask_the_data_source_that_grafana_gets(panel: Mapping[str, Any]) -> None:
    (datasource,) = documents(CLUSTER / "monitoring/grafana_datasource.yaml")
    assert panel["datasource"]["uid"] in [source["uid"] for source in datasource["datasources"]]


def test_prometheus_reads_the_service_of_compose_with_its_key() -> None:
    (prometheus,) = documents(CLUSTER / "monitoring/prometheus.yaml")
    (compose,) = documents(CLUSTER / "compose.yaml")
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    ((target,),) = [part["targets"] for part in jobs["ovss"]["static_configs"]]
    service, port = target.split(":")
    assert any(published.endswith(f":{port}") for published in compose["services"][service]["ports"])
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert jobs["ovss"]["authorization"]["credentials_file"] == f"/run/secrets/{secret['target']}"
    assert compose["secrets"][secret["source"]] == {"environment": "OVSS_API_KEY"}
