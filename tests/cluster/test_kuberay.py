"""KubeRay manifests: their schema, and the rules that hold for all of them."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from ovss_ray.config import loading as configs
from ovss_ray.config.run import RunConfig
from ovss_ray.config.shipped import find_config
from ovss_ray.serve import deploy
from ovss_ray.serve.deployments.app import Arguments
from tests.cluster import manifests
from tests.cluster.manifests import CLUSTER, IMAGE, KUBERAY, RAY_KINDS, documents, everything, pods, ray_manifests

MANIFESTS = list(ray_manifests())
EVERY = pytest.mark.parametrize(("name", "manifest", "spec"), MANIFESTS, ids=[name for name, *_ in MANIFESTS])


def closed(schema: Any) -> Any:
    """A schema of Kubernetes in which unknown keys are errors, as `kubectl` treats them."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    keeps_unknown = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not keeps_unknown and "type" in schema:
        inner["additionalProperties"] = False
    return inner


def schema_of(shared: Path, kind: str) -> dict[str, Any]:
    """The schema of a kind in version v1."""
    text = (shared / f"schemas/kuberay/ray.io_{kind.lower()}s.yaml").read_text("utf-8")
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # a megabyte
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def test_there_is_a_manifest_of_each_kind() -> None:
    assert sorted(manifest["kind"] for _, manifest, _ in MANIFESTS) == sorted(RAY_KINDS)


@EVERY
def test_a_manifest_fits_the_definition_of_its_kind(name: str, manifest: Any, spec: Any, shared: Path) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    validator = jsonschema.Draft202012Validator(schema_of(shared, manifest["kind"]))
    validator.validate(manifest)
    spec["headGroupSpec"]["servicetype"] = "NodePort"  # an unknown key is noticed
    with pytest.raises(jsonschema.ValidationError, match="servicetype"):
        validator.validate(manifest)
    del spec["headGroupSpec"]["servicetype"]


@EVERY
def test_a_token_is_required_and_nothing_is_public(name: str, manifest: Any, spec: Any) -> None:
    assert spec["authOptions"] == {"mode": "token", "secretName": "ovss-ray-token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["enableIngress"] is False
    for document in documents(CLUSTER / "kuberay" / name):
        assert document["kind"] != "Ingress"
        for key, value in everything(document):
            assert value not in ("NodePort", "LoadBalancer"), key
            assert key not in ("hostNetwork", "hostPort", "hostPath", "privileged"), key


@EVERY
def test_the_head_computes_nothing_and_workers_have_gpus(name: str, manifest: Any, spec: Any) -> None:
    assert {spec["headGroupSpec"]["rayStartParams"][key] for key in ("num-cpus", "num-gpus")} == {"0"}
    head, *workers = pods(spec)
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    for worker in workers:
        for bound in ("requests", "limits"):
            assert int(worker["containers"][0]["resources"][bound]["nvidia.com/gpu"]) >= 1


@EVERY
def test_pods_run_the_image_without_root_and_see_the_shared_volume(name: str, manifest: Any, spec: Any) -> None:
    assert spec["rayVersion"] == manifests.ray_version()
    (claim,) = (item for item in documents(CLUSTER / "kuberay/storage.yaml") if item["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert container["image"] == IMAGE
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]


def test_every_secret_of_a_manifest_is_made_by_the_commands_of_storage() -> None:
    commands = (CLUSTER / "kuberay/storage.yaml").read_text("utf-8")
    used = {value["name"] for path in KUBERAY for key, value in everything(documents(path)) if key == "secretKeyRef"}
    used |= {cluster["authOptions"]["secretName"] for *_, cluster in MANIFESTS}
    assert used == {"ovss-ray-token", "ovss-api-key", "ovss-redis"}
    for secret in used:
        assert f"create secret generic {secret} " in commands, secret


def test_the_service_survives_its_head_and_its_clients_need_a_key() -> None:
    (cluster,) = (cluster for _, manifest, cluster in MANIFESTS if manifest["kind"] == "RayService")
    redis = {
        item["kind"]: item for item in documents(CLUSTER / "kuberay/rayservice.yaml") if item["kind"] != "RayService"
    }
    (port,) = redis["Service"]["spec"]["ports"]
    address = f"redis://{redis['Service']['metadata']['name']}:{port['port']}"
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == address
    assert "secretKeyRef" in cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
    for pod in pods(cluster):
        assert "OVSS_API_KEY" in [variable["name"] for variable in pod["containers"][0]["env"]]


def test_the_service_is_what_ovss_serve_writes(tmp_path: Path) -> None:
    (service,) = (manifest for _, manifest, _ in MANIFESTS if manifest["kind"] == "RayService")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(serve)
    arguments = Arguments.model_validate(serve["applications"][0]["args"])
    loaded: dict[str, RunConfig] = configs.load_several(map(find_config, arguments.config), arguments.set)
    deploy.write(tmp_path / "serve.yaml", arguments.config, arguments.set, loaded, "0.0.0.0", 8000)
    assert serve["applications"][0]["args"].pop("patience") > 0
    assert serve == yaml.safe_load((tmp_path / "serve.yaml").read_text("utf-8"))
    (_, _, cluster) = next(entry for entry in MANIFESTS if entry[1] is service)
    workers = sum(group["replicas"] for group in cluster["workerGroupSpecs"])
    assert [config.pools[0].workers for config in loaded.values()] == [workers]


def test_the_job_waits_for_gpus_that_its_cluster_can_have() -> None:
    (job,) = (manifest for _, manifest, _ in MANIFESTS if manifest["kind"] == "RayJob")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    needed = int(job["spec"]["entrypoint"].split("gpus=")[1].split()[0])
    per_node = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert 0 < needed <= per_node * group["maxReplicas"]
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
