"""The config that is written for Serve: what Serve reads, and what the application then is."""

from pathlib import Path

import yaml
from ray.serve.schema import ServeDeploySchema

from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import find_config
from ovss_ray.serve.deployments.app import Arguments
from tests.cli.test_app import ovss


def test_serve_takes_the_file_that_is_written(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("pools:\n  - stages:\n      - use: san\n        options: {variant: san_tiny}\n")
    file = tmp_path / "made/serve.yaml"
    made = ovss("serve", "san_tiny", str(mine), "--set", "limits.seconds=60", "--port", "9000", "--write", str(file))
    assert made.returncode == 0, made.stderr
    read = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    assert (read.http_options.host, read.http_options.port) == ("127.0.0.1", 9000)
    assert read.http_options.request_timeout_s == 95
    (application,) = read.applications
    assert (application.import_path, application.route_prefix) == ("ovss_ray.serve.deployments.app:build", "/")
    arguments = Arguments.model_validate(application.args)
    assert arguments.config == ("san_tiny", str(mine))
    loaded = configs.load_several(map(find_config, arguments.config), arguments.set)
    assert list(loaded) == ["san_tiny", "mine"]
    assert all(one.limits.seconds == 60 for one in loaded.values())


def test_a_config_that_cannot_be_served_is_not_written(tmp_path: Path) -> None:
    made = ovss("serve", "nothing", "--write", str(tmp_path / "serve.yaml"))
    assert made.returncode == 2
    assert "nothing" in made.stderr
    assert "Traceback" not in made.stderr
    assert not list(tmp_path.iterdir())
