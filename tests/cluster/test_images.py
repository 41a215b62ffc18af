"""The image, the compose file and the shell scripts: their linters, and the paths and versions that they name."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

from ovss_ray.cli.app import app
from tests.cluster.manifests import CLUSTER, IMAGE, documents, everything, ray_version
from tests.paths import ROOT
from tests.test_documented_commands import of_job

DOCKERFILE = (CLUSTER / "Dockerfile").read_text("utf-8")
SCRIPTS = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.read_bytes()[:2] == b"#!")


def lint(name: str, *files: str | Path) -> None:
    """Run a linter of the development environment. Any remark is a failure."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_passes_hadolint(tmp_path: Path) -> None:
    lint("hadolint", CLUSTER / "Dockerfile")
    (tmp_path / "Dockerfile").write_text("FROM ubuntu\nRUN cd /tmp\n")
    with pytest.raises(AssertionError, match="DL3006"):
        lint("hadolint", tmp_path / "Dockerfile")


def test_the_scripts_pass_shellcheck(tmp_path: Path) -> None:
    assert [path.name for path in SCRIPTS] == ["slurm.sh"]
    lint("shellcheck", *SCRIPTS)
    (tmp_path / "bad.sh").write_text("#!/bin/sh\nrm $1\n")
    with pytest.raises(AssertionError, match="SC2086"):
        lint("shellcheck", tmp_path / "bad.sh")


def test_the_compose_file_passes_the_specification_of_compose(tmp_path: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    lint("check-jsonschema", *schema, CLUSTER / "compose.yaml")
    (tmp_path / "compose.yaml").write_text("services: {serve: {image: a, port: ['8000:8000']}}\n")
    with pytest.raises(AssertionError, match="'port' was unexpected"):
        lint("check-jsonschema", *schema, tmp_path / "compose.yaml")


def test_the_image_runs_without_root_and_with_a_token() -> None:
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(r"^USER 1000:1000$", last_stage, re.MULTILINE)
    for setting in ("RAY_AUTH_MODE=token", "RAY_idle_worker_killing_time_threshold_ms=600000"):
        assert setting in last_stage


def test_the_image_has_a_ray_that_the_package_accepts() -> None:
    (ray,) = (Requirement(line) for line in requires("ovss_ray") or () if re.match(r"ray\W", line))
    assert ray_version() in ray.specifier


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    ignore = (CLUSTER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    copied |= set(re.findall(r"--mount=type=bind,source=([^,\s]+)", DOCKERFILE))
    assert copied == sent
    assert "*" in ignore, "all else stays here"
    for path in sent:
        assert (ROOT / path).exists(), path


def test_compose_names_files_and_images_that_exist() -> None:
    (compose,) = documents(CLUSTER / "compose.yaml")
    build = compose["services"]["serve"]["build"]
    assert (CLUSTER / build["context"] / build["dockerfile"]) == CLUSTER / ".." / "cluster/Dockerfile"
    for name, config in compose["configs"].items():
        assert (CLUSTER / config["file"]).is_file(), name
    for name, service in compose["services"].items():
        assert ":" in service["image"], f"{name}: a version"
        assert not service["image"].endswith(":latest"), name
        for entry in service.get("configs", ()):
            assert entry["source"] in compose["configs"]
        for volume in service.get("volumes", ()):
            assert volume.startswith("${") or volume.split(":")[0] in compose["volumes"], volume
    assert [compose["services"][name]["image"] for name in ("evaluate", "serve")] == [IMAGE, IMAGE]


def test_compose_publishes_ports_on_this_machine_only_and_asks_for_keys() -> None:
    (compose,) = documents(CLUSTER / "compose.yaml")
    ports = [port for key, value in everything(compose) if key == "ports" for port in value]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name in ("evaluate", "serve"):
        assert compose["services"][name]["environment"]["RAY_AUTH_MODE"] == "token"
    assert compose["services"]["serve"]["environment"]["OVSS_API_KEY"].startswith("${OVSS_API_KEY:?"), "no default"
    assert "--host" in compose["services"]["serve"]["command"]


@pytest.mark.parametrize("service", ["evaluate", "serve"])
def test_the_commands_of_compose_are_commands_of_ovss(service: str) -> None:
    (compose,) = documents(CLUSTER / "compose.yaml")
    program, *arguments = compose["services"][service]["command"]
    assert program == "ovss"
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


def test_the_jobs_that_the_files_name_have_the_options_that_they_pass() -> None:
    text = "".join(path.read_text("utf-8") for path in sorted(CLUSTER.rglob("*")) if path.is_file())
    jobs = re.findall(r"python (?:/opt/ovss/)?(jobs/\w+\.py --[^'\"\n]*(?:\n +--.*)?)", text)
    assert len(jobs) >= 8, "launcher, KubeRay and Slurm"
    for job in jobs:
        of_job(shlex.split(job))
    with pytest.raises(Exception, match="No such option"):
        of_job(["jobs/eval_voc.py", "--wait", "gpus=8"])


def test_every_yaml_file_is_valid() -> None:
    files = sorted(CLUSTER.rglob("*.yaml"))
    assert len(files) >= 10
    for path in files:
        assert all(document is not None for document in yaml.safe_load_all(path.read_text("utf-8"))), path
