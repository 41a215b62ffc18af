"""What this project needs of Ray beyond its public API: a test for each touch, and for what holds without it.

After an upgrade of Ray the names of the tests that fail say what has changed. See engine/cluster/ray_internals.py.
"""

import asyncio
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray
from ray import serve
from ray.data import DataContext
from ray.data._internal.execution.operators.actor_pool_map_operator import _ActorPool
from ray.data._internal.execution.resource_manager import ResourceManager
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from ovss_ray.engine.cluster import autoscaler, lean_start, ray_internals
from ovss_ray.engine.watch import Lost, plain_errors
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.runs.plan import JOB
from ovss_ray.serve.deployments import app
from ovss_ray.serve.intake import headers
from tests.paths import ROOT

pytestmark = pytest.mark.ray

LACKS = "Ray no longer has {}: see engine/cluster/ray_internals.py"
RAY = Path(ray.__file__).parent


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Have each test see the messages that are logged once only."""
    ray_internals.report_missing.cache_clear()
    yield
    ray_internals.report_missing.cache_clear()


def reported(caplog: pytest.LogCaptureFixture) -> str:
    """The one message that was logged."""
    (record,) = [record for record in caplog.records if record.name == ray_internals.__name__]
    return record.getMessage()


def test_what_is_missing_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        ray_internals.report_missing("Node.kill_monitor", "It runs idle")
    assert reported(caplog) == LACKS.format("Node.kill_monitor") + ". It runs idle"


def test_it_is_imported_without_ray_and_without_serve() -> None:
    script = "import sys; sys.modules['ray'] = None; import ovss_ray.engine.cluster.ray_internals"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_no_other_module_touches_what_is_private() -> None:
    for module in (ROOT / "ovss_ray").rglob("*.py"):
        text = module.read_text()
        private = re.findall(r"ray\._|\._private|_internal\.| _blocking=|RAY_[a-z]\w+", text)
        assert module.name in ("ray_internals.py", "autoscaler.py", "lean_start.py") or not private, module


@pytest.mark.usefixtures("cluster")
def test_ray_says_whether_an_autoscaler_may_add_nodes(caplog: pytest.LogCaptureFixture) -> None:
    assert not autoscaler.autoscaled()
    assert not caplog.records, LACKS.format("the status of the autoscaler")


# The node of a process


@pytest.mark.usefixtures("cluster")
def test_ray_has_the_node_of_a_process_with_its_daemons_and_logs() -> None:
    node = ray_internals.own_node()
    assert node is not None, LACKS.format("ray._private.worker._global_node")
    assert isinstance(node, import_module("ray._private.node").Node)
    assert set(ray_internals.daemons(node)) >= set(ray_internals.DAEMONS), LACKS.format("Node.all_processes")
    for kind in ray_internals.DAEMONS:
        assert [process.poll() for process in ray_internals.daemons(node)[kind]] == [None]
        assert Path(ray_internals.log_folder(node), f"{kind}.out").exists(), LACKS.format("Node._logs_dir")
    expected = {"check_alive", "allow_graceful", "wait"}
    assert expected <= set(inspect.signature(node.kill_all_processes).parameters), LACKS.format("kill_all_processes")


@pytest.mark.usefixtures("cluster")
def test_a_lean_cluster_runs_no_processes_that_nobody_needs() -> None:
    kinds = {"log_monitor", "dashboard", "monitor"}  # the fixture starts a lean one
    assert not kinds & set(ray_internals.daemons(ray_internals.own_node())), LACKS.format(lean_start.IDLE)


def test_ray_has_the_methods_that_a_lean_start_leaves_out_and_they_come_back(caplog: pytest.LogCaptureFixture) -> None:
    node, shared = import_module("ray._private.node").Node, import_module("ray._private.utils")
    before = [getattr(node, name) for name in lean_start.IDLE], shared.get_dashboard_dependency_error
    with lean_start.lean():
        node.start_log_monitor(None)
        assert isinstance(shared.get_dashboard_dependency_error(), ImportError)
    assert before == ([getattr(node, name) for name in lean_start.IDLE], shared.get_dashboard_dependency_error)
    assert caplog.records == [], LACKS.format(f"Node: {', '.join(lean_start.IDLE)}")


def test_without_one_of_the_methods_the_others_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("ray._private.node.Node.start_log_monitor")
    with lean_start.lean():
        import_module("ray._private.node").Node.start_monitor(None)
    assert reported(caplog).startswith(LACKS.format("Node.start_log_monitor"))


def raised_inside(node: Any) -> Exception:
    """An error with a frame in which `self` is the node, as one of its methods has."""

    def method(self: Any) -> None:
        raise RuntimeError("late")

    with pytest.raises(RuntimeError) as failure:
        method(node)
    return failure.value


def test_a_node_that_did_not_start_is_in_the_frames_of_the_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node_class = import_module("ray._private.node").Node
    begun, own = node_class.__new__(node_class), object()
    monkeypatch.setattr(ray._private.worker, "_global_node", own)
    assert ray_internals.failed_node(raised_inside(begun)) is begun
    assert ray_internals.failed_node(raised_inside(object())) is own
    monkeypatch.delattr("ray._private.node.Node")
    assert ray_internals.failed_node(raised_inside(begun)) is own
    assert reported(caplog).startswith(LACKS.format("ray._private.node.Node"))
    assert (ray_internals.log_folder(own), ray_internals.daemons(own)) == ("", {})


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with the name of a daemon."""
    monkeypatch.setattr(ray_internals, "DAEMONS", ("stand_in",))
    shutil.copy(shutil.which("sleep") or "", tmp_path / "stand_in")
    with subprocess.Popen([tmp_path / "stand_in", "600"]) as process:
        assert psutil.Process(process.pid).name() == "stand_in"
        yield process
        process.kill()


@pytest.mark.parametrize("known", [True, False])
def test_without_the_methods_of_a_node_its_processes_are_ended(
    known: bool, daemon: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    processes = {"all_processes": {"stand_in": [SimpleNamespace(process=daemon)]}} if known else {}
    ray_internals.end_node(SimpleNamespace(**processes))
    assert daemon.wait(10) is not None  # it sleeps longer
    messages = [record.getMessage() for record in caplog.records]
    lacking = ["Node.kill_all_processes"] if known else ["Node.all_processes", "Node.kill_all_processes"]
    assert [message.partition(". ")[0] for message in messages] == [LACKS.format(name) for name in lacking]


# Environment variables and files


@pytest.fixture(scope="module")
def texts() -> list[bytes]:
    """Ray's Python modules, and the daemons and the library in which its C++ part is."""
    files = [*RAY.rglob("*.py"), RAY / "_raylet.so", *(RAY / "core/src/ray").rglob("*")]
    return [file.read_bytes() for file in files if file.is_file()]


@pytest.mark.parametrize(
    "name",
    [
        *ray_internals.SERVING,
        *ray_internals.BEFORE_IMPORT,
        *ray_internals.LOCAL_BEFORE_IMPORT,
        ray_internals.TRIES[0],
        JOB,
    ],
)
def test_ray_reads_the_environment_variable(name: str, texts: list[bytes]) -> None:
    bare = name.removeprefix("RAY_")
    sought = name if bare.isupper() else bare  # C++ puts RAY_ before the names of its settings, which are in lower case
    assert any(sought.encode() in text for text in texts), LACKS.format(name)


def test_the_function_that_each_proxy_calls_is_there() -> None:
    path = ray_internals.SERVING["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert import_module("ray._common.utils").import_attr(path) is headers.begin


def test_what_was_set_by_hand_before_ray_is_imported_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*ray_internals.BEFORE_IMPORT, *ray_internals.LOCAL_BEFORE_IMPORT]
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv(names[0], "by hand")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray_internals.prepare_import()
    assert [os.environ.get(name) for name in names] == ["by hand", ray_internals.BEFORE_IMPORT[names[1]], None]
    monkeypatch.setenv("RAY_ADDRESS", "local")
    ray_internals.prepare_import()
    assert os.environ[names[2]] == "0"


def test_a_job_that_is_not_recognised_is_merged_with_our_environment() -> None:
    merge = import_module("ray._private.worker")._merge_runtime_env
    env = {"env_vars": {"OVSS_CACHE": "/a"}}
    assert merge(env, env, override=True) is not None, LACKS.format("RAY_OVERRIDE_JOB_RUNTIME_ENV")
    assert merge(env, env) is None


@pytest.mark.parametrize("variables", [{}, {"TMPDIR": "/x"}, {"TMPDIR": "/x", "RAY_TMPDIR": "/y"}])
def test_the_address_of_this_machines_cluster_is_where_ray_2_60_leaves_it(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = ray_internals.address_file()
    assert caplog.records == [], LACKS.format("get_ray_address_file")
    for module in ("ray._common.utils", "ray._private.utils"):
        monkeypatch.delattr(f"{module}.get_ray_address_file", raising=False)
    assert ray_internals.address_file() == file
    assert reported(caplog).startswith(LACKS.format("get_ray_address_file"))


# Ray Data


@pytest.mark.parametrize(
    "path",
    [
        "enable_progress_bars",
        "issue_detectors_config.detectors",
        "op_resource_reservation_enabled",
        "downstream_capacity_backpressure_ratio",
        "custom_execution_callback_classes",
    ],
)
def test_ray_data_has_the_setting(path: str, caplog: pytest.LogCaptureFixture) -> None:
    context = DataContext()
    attrgetter(path)(context)
    ray_internals._set(context, path, None)
    assert attrgetter(path)(context) is None
    assert caplog.records == [], LACKS.format(f"DataContext.{path}")


@pytest.mark.parametrize("path", ["renamed", "issue_detectors_config.renamed", "renamed.detectors"])
def test_a_setting_that_ray_data_has_not_is_not_made_up(path: str, caplog: pytest.LogCaptureFixture) -> None:
    context = DataContext()
    ray_internals._set(context, path, 1)
    assert not hasattr(context, "renamed")
    assert not hasattr(context.issue_detectors_config, "renamed")
    assert reported(caplog).startswith(LACKS.format(f"DataContext.{path}"))


@pytest.mark.usefixtures("cluster")
def test_ray_data_makes_a_dataset_of_blocks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    blocks = [pa.table({"id": [number]}) for number in range(3)]
    made = ray_internals.dataset(blocks)
    assert caplog.records == [], LACKS.format("ray.data.from_blocks")
    assert sorted(row["id"] for row in made.iter_rows()) == [0, 1, 2]
    monkeypatch.delattr(ray.data, "from_blocks")
    assert sorted(row["id"] for row in ray_internals.dataset(blocks).iter_rows()) == [0, 1, 2]
    assert reported(caplog).startswith(LACKS.format("ray.data.from_blocks"))


class Dies:
    """Kills its process once, over the second row, and then never again."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["id"][0] == 1 and not self.note.exists():
            self.note.touch()
            os._exit(1)
        return batch


@pytest.mark.usefixtures("cluster")
def test_ray_data_starts_a_worker_that_has_died_anew_and_gives_it_its_rows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, sums, step, steps = ResourceManager.update_usages, [], StreamingExecutor._scheduling_loop_step, []
    monkeypatch.setattr(ResourceManager, "update_usages", lambda manager: (update(manager), sums.append(1)))
    monkeypatch.setattr(StreamingExecutor, "_scheduling_loop_step", lambda *given: (steps.append(1), step(*given))[1])
    monkeypatch.setattr(lean_start, "PERIOD", 3600.0)
    ray_internals.quiet_data([lean_start.Seldom])
    note = tmp_path / "died"
    made = ray.data.from_items([{"id": number} for number in range(4)], override_num_blocks=4).map_batches(
        Dies, fn_constructor_args=(note,), batch_size=1, compute=ray.data.ActorPoolStrategy(size=1)
    )
    assert sorted(row["id"] for row in made.iter_rows()) == [0, 1, 2, 3], LACKS.format("restarts of Ray Data's workers")
    assert note.exists()
    assert 0 < len(sums) <= len(steps) + 1, LACKS.format("ResourceManager.update_usages, or its place in the executor")


class Slow:
    """Waits for each row."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.05)
        return batch


@pytest.mark.usefixtures("cluster")
def test_ray_data_keeps_workers_that_wait_for_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    scale = _ActorPool.scale
    monkeypatch.setattr(
        _ActorPool,
        "scale",
        lambda pool, request: (ended.append(request.reason) if request.delta < 0 else None, scale(pool, request))[1],
    )
    ray_internals.quiet_data()
    slow = ray.data.from_items([{"id": number} for number in range(12)], override_num_blocks=12).map_batches(
        Slow, batch_size=1, num_cpus=0.1, compute=ray.data.ActorPoolStrategy(size=1)
    )
    waiting = ray.data.ActorPoolStrategy(min_size=1, max_size=2, initial_size=2)
    made = slow.map_batches(Slow, batch_size=1, num_cpus=0.1, compute=waiting)
    assert len(list(made.iter_rows())) == 12
    assert set(ended) <= {"consumed all inputs"}, LACKS.format("actor_pool_util_downscaling_threshold")


def test_the_error_of_a_dead_worker_has_its_name() -> None:
    assert hasattr(ActorDiedError(), "actor_id"), LACKS.format("RayActorError.actor_id")  # Watch.note_death needs it


# Errors of workers


ERRORS = {
    "ours": OvssError("no weights: a.pth\nin two lines"),
    "a name": UnknownName("config", "x", ["y"]),
    "a bug": KeyError("x"),
}


def fail(kind: str) -> None:
    raise ERRORS[kind]


def fail_with_rows(batch: dict[str, Any]) -> dict[str, Any]:
    raise ERRORS[batch["kind"][0]]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ERRORS)
def test_the_message_of_an_error_in_a_task_is_found(kind: str) -> None:
    task: Any = ray.remote(fail)
    with pytest.raises(RayError) as failure:
        ray.get(task.remote(kind))
    expected = "" if kind == "a bug" else str(ERRORS[kind])
    assert ray_internals.user_error(failure.value) == expected, LACKS.format("the error of a task as cause or text")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ERRORS)
def test_the_message_of_an_error_in_ray_data_is_found(kind: str) -> None:
    ray_internals.quiet_data()
    made = ray.data.from_items([{"kind": kind}]).map_batches(fail_with_rows)
    with pytest.raises(RayError) as failure:
        made.take_all()
    expected = "" if kind == "a bug" else str(ERRORS[kind])
    assert ray_internals.user_error(failure.value) == expected, LACKS.format("the error of a task as text")


def test_an_error_in_other_words_is_handed_on_as_it_is() -> None:
    with pytest.raises(RayTaskError), plain_errors():
        raise RayTaskError("f", "another text", KeyError("x"))
    with pytest.raises(Lost), plain_errors():
        raise ActorDiedError


# Serve


def test_serve_has_a_namespace_of_its_own() -> None:
    assert import_module("ray.serve._private.constants").SERVE_NAMESPACE == ray_internals.SERVE, LACKS.format(
        "the namespace serve"
    )


def test_serve_deletes_an_application_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "_blocking" in inspect.signature(serve.delete).parameters, LACKS.format("serve.delete(_blocking=False)")
    deleted: list[tuple[str, bool]] = []

    def delete(name: str, _blocking: bool = True) -> None:
        deleted.append((name, _blocking))

    monkeypatch.setattr(serve, "delete", delete)
    ray_internals.delete_application("ovss")
    assert deleted == [("ovss", False)]


def test_without_that_argument_a_thread_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(serve, "delete", lambda name: deleted.append(name))
    ray_internals.delete_application("ovss")
    assert deleted == ["ovss"]
    assert reported(caplog).startswith(LACKS.format("serve.delete(_blocking=False)"))


def test_serve_asks_all_replicas(caplog: pytest.LogCaptureFixture) -> None:
    handle = import_module("ray.serve.handle")
    assert hasattr(handle.DeploymentHandle, "broadcast"), LACKS.format("DeploymentHandle.broadcast")
    parameters = set(inspect.signature(handle.DeploymentBroadcastResponse.results_async).parameters)
    assert parameters >= {"timeout_s", "return_exceptions"}, LACKS.format("DeploymentBroadcastResponse.results_async")
    without: Any = SimpleNamespace(deployment_name="san-0")
    assert asyncio.run(ray_internals.ask_replicas(without, "figures", 1.0)) == []
    assert reported(caplog).startswith(LACKS.format("DeploymentHandle.broadcast"))


def test_serve_answers_429_when_it_is_busy(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    options = ray_internals.busy_answer(3)
    assert caplog.records == [], LACKS.format("BackpressureConfig")
    assert (options["backpressure_config"].status_code, options["backpressure_config"].retry_after_s) == (429, 3)
    serve.deployment(type("Busy", (), {}), **options)
    monkeypatch.delattr("ray.serve.config.BackpressureConfig")
    assert ray_internals.busy_answer(3) == {}
    assert reported(caplog).startswith(LACKS.format("BackpressureConfig"))


def test_serve_lets_a_class_choose_the_replicas() -> None:
    router = import_module("ray.serve.request_router")
    wanted = set(inspect.signature(router.RequestRouter.choose_replicas).parameters)
    assert wanted >= {"candidate_replicas", "pending_request"}, LACKS.format("RequestRouter.choose_replicas")
    fields = set(inspect.signature(router.PendingRequest).parameters)
    assert fields >= {"metadata", "routing_context"}, LACKS.format("PendingRequest.metadata and routing_context")

    async def request() -> Any:
        return router.PendingRequest(args=[], kwargs={}, metadata=SimpleNamespace(multiplexed_model_id="abc"))

    context = asyncio.run(request()).routing_context
    assert hasattr(context, "should_backoff"), LACKS.format("PendingRequest.routing_context.should_backoff")
    assert hasattr(router.RunningReplica, "replica_id"), LACKS.format("RunningReplica.replica_id")
    assert router.ReplicaID("abc", SimpleNamespace()).unique_id == "abc", LACKS.format("ReplicaID.unique_id")


def test_without_a_request_that_says_its_image_any_replica_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    from ovss_ray.serve.deployments.routing import ByImage

    replicas: list[Any] = [SimpleNamespace(replica_id=f"san-0#{number}") for number in range(5)]

    def chosen(request: Any) -> list[Any]:
        (among,) = asyncio.run(ByImage.choose_replicas(SimpleNamespace(), replicas, request))  # type: ignore[arg-type]
        return among

    said = SimpleNamespace(routing_context=SimpleNamespace(), metadata=SimpleNamespace(multiplexed_model_id="abc"))
    assert len(chosen(said)) == 1  # by the name of the replica as text, as its id has none of its own
    assert chosen(said) == chosen(said)
    assert len(chosen(SimpleNamespace())) == 2
    assert reported(caplog).startswith(LACKS.format("PendingRequest.routing_context and metadata"))


def test_without_a_class_that_chooses_serve_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert [*app._by_image()] == ["request_router_config"]
    monkeypatch.delitem(sys.modules, "ovss_ray.serve.deployments.routing")
    monkeypatch.setitem(sys.modules, "ray.serve.request_router", None)
    assert app._by_image() == {}
    assert reported(caplog).startswith(LACKS.format("ray.serve.request_router"))


# Others


@pytest.mark.parametrize(
    "name", ["nodes", "util.list_named_actors", "util.scheduling_strategies", "exceptions.UserCodeException"]
)
def test_ray_has_what_is_for_developers(name: str) -> None:
    assert attrgetter(name)(ray), LACKS.format(f"ray.{name}")


def test_ray_is_the_release_whose_workers_hang_at_exit() -> None:
    assert ray.__version__.startswith(f"{ray_internals.HANGS_AT_EXIT}."), (
        f"Ray {ray.__version__}: does a worker still wait for ever at its end? Take `atexit.register(_leave)` out of "
        "engine/pools/worker.py and run tests/engine/test_chaos.py with OVSS_CHAOS=30. If `staying` finds no worker, "
        "delete _leave, HANGS_AT_EXIT and this test; else set HANGS_AT_EXIT to this release"
    )
