"""Files of Ray's cluster launcher: Ray's own schema, and the rules that hold for all of them."""

from pathlib import Path

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.manifests import CLUSTER, IMAGE, LAUNCHER, documents, everything

EVERY = pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.stem)


@EVERY
def test_ray_accepts_the_file(path: Path) -> None:
    (config,) = documents(path)
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError, match="head_nodetype"):
        validate_config({**prepare_config(config), "head_nodetype": "head"})


@EVERY
def test_a_token_is_required_and_the_dashboard_is_private(path: Path) -> None:
    (config,) = documents(path)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert not [value for _, value in everything(config) if value == "0.0.0.0"]


@EVERY
def test_idle_processes_live_for_ten_minutes_in_the_image_of_this_version(path: Path) -> None:
    (config,) = documents(path)
    assert "--env RAY_idle_worker_killing_time_threshold_ms=600000" in config["docker"]["run_options"]
    assert config["docker"]["image"] == IMAGE


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_spot_machines_with_gpus_come_and_go_beside_a_head_that_computes_nothing(cloud: str) -> None:
    (config,) = documents(CLUSTER / f"launcher/{cloud}.yaml")
    types = config["available_node_types"]
    assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"] <= config["max_workers"]
    assert types["gpu"]["resources"]["GPU"] >= 1
    spot = {"aws": ("InstanceMarketOptions", {"MarketType": "spot"}), "gcp": ("provisioningModel", "SPOT")}[cloud]
    assert spot in list(everything(types["gpu"]["node_config"]))
    assert spot not in list(everything(types["head"]["node_config"])), "the head is not a spot machine"
    assert "GPU" not in types["head"]["resources"]
    assert "--num-cpus=0 --num-gpus=0" in " ".join(config["head_start_ray_commands"])


def test_workers_have_the_cloud_identity_with_which_they_read_and_write_buckets() -> None:
    """Ray gives it to the head only, which computes nothing."""
    (aws,) = documents(CLUSTER / "launcher/aws.yaml")
    assert aws["available_node_types"]["gpu"]["node_config"]["IamInstanceProfile"] == {"Name": "ray-autoscaler-v1"}
    (gcp,) = documents(CLUSTER / "launcher/gcp.yaml")
    (account,) = gcp["available_node_types"]["gpu"]["node_config"]["serviceAccounts"]
    project = gcp["provider"]["project_id"]
    assert account["email"] == f"ray-autoscaler-sa-v1@{project}.iam.gserviceaccount.com"
    assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
