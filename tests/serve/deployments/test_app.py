"""The application for Serve: it waits for nodes that are still to come."""

import re

import pytest
from ray.serve.exceptions import RayServeException

from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import find_config
from ovss_ray.engine.cluster.nodes import Size, even
from ovss_ray.serve.deployments import app

HEAD = even(1, 0, 0, 8e9)
WHOLE = even(2, 16, 1, 64e9)


class Cluster:
    """A cluster of a head alone that has all its workers when it is looked at for the third time."""

    def __init__(self) -> None:
        self.looks = 0

    def size(self) -> Size:
        self.looks += 1
        return WHOLE if self.looks > 2 else HEAD


@pytest.fixture
def growing_cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(app.connection, "size", cluster.size)
    monkeypatch.setattr(app, "LOOK", 0)
    return cluster


@pytest.mark.parametrize(("patience", "looks"), [(600, 3), (0, 0)])
def test_the_service_waits_for_the_nodes_that_its_workers_need(
    growing_cluster: Cluster, patience: int, looks: int
) -> None:
    served = configs.load_several([find_config("san_tiny")], ["pools.0.workers=2"])
    app._wait_for_nodes(served, patience)
    assert growing_cluster.looks == looks


def test_it_waits_no_longer_than_its_patience(growing_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Size] = []
    monkeypatch.setattr(app.connection, "size", lambda: looks.append(HEAD) or HEAD)
    app._wait_for_nodes(configs.load_several([find_config("san_tiny")], []), 0.05)
    assert looks


def test_serve_run_and_serve_deploy_show_an_error_as_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = app.Arguments(config="nothing_such")
    with pytest.raises(RayServeException) as deployed:  # of which `serve status` prints the text alone
        app.build(wrong)
    assert re.fullmatch(
        r"the service could not start: .*nothing_such[^\n]*run the same `serve deploy` again", str(deployed.value)
    )
    monkeypatch.setattr("sys.argv", ["/usr/bin/serve", "run"])
    with pytest.raises(SystemExit) as ended:
        app.build(wrong)
    (line,) = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line.startswith("ovss: ")) == (2, True)
