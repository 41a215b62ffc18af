"""The command `ovss serve`: run the service on this machine until a signal stops it."""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatusOverview

from ovss_ray.config.run import RunConfig
from ovss_ray.engine.cluster import connection, ray_internals
from ovss_ray.errors import OvssError
from ovss_ray.serve import deploy
from ovss_ray.serve.deployments import pools, share
from ovss_ray.serve.deployments.app import QUIET, application, sources
from ovss_ray.serve.watch import News

NAME = "ovss"
"""Name of the service's application in Ray Serve"""
FAULTS = (RayError, RayServeException, RuntimeError, TimeoutError)
"""Exceptions that Ray Serve raises for a failed start, a failed request or a timeout"""
INTERRUPTED = 130
"""Exit status of the command after a second SIGINT or SIGTERM"""
PROGRESS = 10.0
"""Seconds between two progress lines while the service starts"""
LOOK = 2.0
"""Seconds between two checks of the running service"""
RUNNING = "RUNNING"
"""State of a replica that runs and answers requests. Ray Serve's `replica_states` maps each state to a count"""
FLUSH = 1.0
"""Seconds that the HTTP proxy gets to send the last answers before it is shut down"""


def run(configs: Mapping[str, RunConfig], host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM, then answer the requests in progress, and return.

    A second signal exits at once. Raises OvssError if the service cannot start, or if its cluster shuts down.
    """
    _check_port(host, port)
    limits = share.limits(configs)
    for config in configs.values():
        sources(config)  # report missing weights before Ray is started
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    running = draining = None
    print(f"ovss: starting Ray for {' and '.join(configs)}", flush=True)
    with connection.connect(ray_internals.SERVING), _at_once():
        _check_free()
        try:
            _start(deploy.http_options(configs, host, port))
            with _progress():
                running = _deploy(application(configs))
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"ovss: {' and '.join(configs)}: served at {address}/v1", flush=True)
            _wait(running)
        except KeyboardInterrupt:
            draining = running or _answering()
        finally:  # a second interrupt leaves this block
            if draining:
                _drain(draining, limits.seconds)
            _end()
    print("ovss: stopped", flush=True)


@contextmanager
def _at_once() -> Iterator[None]:
    """Exit at once, with the status INTERRUPTED, if a second signal arrives during the block."""
    try:
        yield
    except KeyboardInterrupt:
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.SIG_IGN)
        print("ovss: stopped at once. Requests in progress are lost", file=sys.stderr, flush=True)
        with suppress(RayServeException, RayError):
            ray_internals.delete_application(NAME)  # Ray Serve deletes it in the background
        sys.exit(INTERRUPTED)


def _check_free() -> None:
    """Raise OvssError if Ray Serve already runs on the cluster."""
    # a running Serve would ignore the requested host and port, and the end of this command would stop its applications
    if actors := _actors():
        raise OvssError(
            f"Ray Serve is already running on this cluster ({len(actors)} actors). To deploy this service there, type "
            "`ovss serve … --write s.yaml` and `serve deploy s.yaml`. If the running Serve is unused, type `serve "
            "shutdown -y` and run the same command again"
        )


def _actors() -> list[dict[str, str]]:
    """Return name and namespace of each Serve actor on the cluster: controller, proxies, replicas."""
    return [
        actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == ray_internals.SERVE
    ]


def _start(http_options: Mapping[str, object]) -> None:
    """Start Ray Serve. If the first attempt fails, make a second one. Raises OvssError if both fail."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # replaces Ray's handler, which exits at once
    for tries in (1, 2):  # on a busy machine, Serve may replace an HTTP proxy that is slow to start
        try:
            return serve.start(proxy_location="HeadOnly", http_options=dict(http_options), logging_config=QUIET)
        except FAULTS as failure:
            if tries == 2:
                raise OvssError(
                    f"Ray Serve failed to start in two attempts: {_brief(failure)}. Run the same command again when "
                    "this machine is less busy, or choose another --port"
                ) from failure
            _end()


def _deploy(service: Application) -> DeploymentHandle:
    try:
        return serve.run(service, name=NAME)
    except FAULTS as failure:
        raise OvssError(
            f"the service could not start: {_brief(failure)}. Fix the cause and run the same command again"
        ) from failure


@contextmanager
def _progress() -> Iterator[None]:
    """Print a line every PROGRESS seconds during the block, with the deployments that are not running yet."""
    ended, begun = threading.Event(), time.monotonic()

    def report() -> None:
        while not ended.wait(PROGRESS):
            with suppress(*FAULTS):
                states = [item for app in serve.status().applications.values() for item in app.deployments.items()]
                left = [name for name, state in states if state.status != "HEALTHY"]
                spent = time.monotonic() - begun
                print(f"ovss: {spent:.0f} s: waiting for {', '.join(left) or 'Ray Serve'}", flush=True)

    print("ovss: loading the stages, and computing test images", flush=True)
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _end() -> None:
    """Shut Ray Serve down, and kill its remaining actors, such as the controller and proxies on a shared cluster."""
    if not connection.answers():
        return
    with suppress(*FAULTS):
        serve.shutdown()
    for actor in _actors():
        with suppress(ValueError, RayError):  # the actor may have exited by now
            ray.kill(ray.get_actor(**actor))


def _brief(failure: Exception | str) -> str:
    """Return the last line of an error's text, where Ray states the exception that was raised inside an actor."""
    return next(iter(str(failure).strip().splitlines()[-1:]), type(failure).__name__).strip().rstrip(".")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _drain(service: DeploymentHandle, seconds: float) -> None:
    """Make the service refuse new requests, and wait until all requests in progress are answered.

    `seconds`: maximum duration of a request.
    """
    print("ovss: finishing requests in progress. A second signal exits at once", flush=True)
    # Errors are ignored, since a dead service has no requests in progress.
    with suppress(RayServeException, RayError, TimeoutError):
        service.drain.remote().result(timeout_s=seconds + FLUSH)
    time.sleep(FLUSH)


def _wait(service: DeploymentHandle) -> NoReturn:
    """Print a line for each lost or started replica, until a signal arrives.

    Raises OvssError if the cluster has shut down.
    """
    news = News()
    while connection.answers():
        with suppress(*FAULTS):
            reply = _lines(service)
            for line in news.answered(*reply) if reply else _missing(news):
                print(f"ovss: {line}", flush=True)
        time.sleep(LOOK)
    raise OvssError("the Ray cluster of the service has shut down. Run the same command again")


def _lines(service: DeploymentHandle) -> tuple[str, int, list[str]] | None:
    """Return the result of Ingress.lines, or None if the HTTP process does not answer within LOOK seconds."""
    reply = service.lines.remote()
    try:
        lines: tuple[str, int, list[str]] = reply.result(timeout_s=LOOK)
        return lines
    except TimeoutError:
        reply.cancel()
        return None
    except FAULTS:
        return None


def _http() -> DeploymentStatusOverview | None:
    """Return the state of the deployment that answers HTTP requests, if it exists."""
    app = serve.status().applications.get(NAME)
    return app.deployments.get(pools.HTTP) if app else None


def _runs(state: DeploymentStatusOverview) -> bool:
    """Return True if a replica of a deployment runs."""
    return any(count for kind, count in state.replica_states.items() if kind == RUNNING)


def _answering() -> DeploymentHandle | None:
    """Return a handle of the HTTP deployment if one of its replicas runs, else None."""
    # A replica may answer requests up to a second before Ray Serve reports that the service has started.
    with suppress(*FAULTS):
        if (http := _http()) and _runs(http):
            return serve.get_deployment_handle(pools.HTTP, NAME)
    return None


def _missing(news: News) -> Sequence[str]:
    """Return lines about a lost HTTP process that were not printed yet. Call this function after a failed request.

    A line reports that the HTTP process has ended, or why no new HTTP process starts. If an HTTP process runs, or the
    HTTP deployment does not exist, the result is empty.
    """
    http = _http()
    if http is None or _runs(http):
        return ()  # a process that runs may only be too busy to answer
    failed = "\n" in http.message  # with a traceback
    return news.silent(_brief(http.message) if failed else "")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as failure:
        raise OvssError(
            f"cannot listen on {host}:{port}: {failure.strerror}. Choose another --port or --host"
        ) from failure
