"""`ovss serve`: the service on this machine, until it is told to stop."""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ovss_ray import cluster
from ovss_ray.config import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.serve import deploy, share
from ovss_ray.serve.app import QUIET, application, sources

NAME = "ovss"
"""What Serve calls the application."""
NAMESPACE = "serve"
"""Ray's namespace for the actors of Serve."""
FAULTS = (RayError, RayServeException, RuntimeError, TimeoutError)
"""Exceptions of Serve for an application that does not start, or not in time."""
INTERRUPTED = 130
"""Exit status after a second signal."""
FLUSH = 1.0
"""Seconds between the last answer and the end of the process that sends it on."""


def run(configs: Mapping[str, RunConfig], host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM, then take no more requests, answer those in hand, and end.

    A second signal ends at once. Raises OvssError if the service cannot start, or if its cluster ends.
    """
    _check_port(host, port)
    limits = share.limits(configs)
    for config in configs.values():
        sources(config)  # what is missing is said before Ray is started
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = asked = None
    with cluster.connect(), _at_once():
        _check_free()
        try:
            _start(deploy.http_options(configs, host, port))
            running = _deploy(application(configs))
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"ovss: {' and '.join(configs)}: served at {address}/v1", flush=True)
            _wait()
        except KeyboardInterrupt:
            asked = running
        finally:  # which a second interrupt leaves
            if asked:
                _drain(asked, limits.seconds)
            _end()
    print("ovss: stopped", flush=True)


@contextmanager
def _at_once() -> Iterator[None]:
    """What a second signal does: the service is left to Serve, and the command ends with a cluster of its own."""
    try:
        yield
    except KeyboardInterrupt:
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.SIG_IGN)
        print("ovss: stopped at once. What was in hand is lost", file=sys.stderr, flush=True)
        with suppress(RayServeException, RayError):
            serve.delete(NAME, _blocking=False)
        sys.exit(INTERRUPTED)


def _check_free() -> None:
    """Raise OvssError if Serve runs on the cluster already: it would ignore our host and port, and end with us."""
    if there := _actors():
        raise OvssError(
            f"Ray Serve runs on this cluster already ({len(there)} actors). Add to it (ovss serve … --write s.yaml, "
            "then serve deploy s.yaml), or end it if nobody needs it: serve shutdown -y"
        )


def _actors() -> list[dict[str, str]]:
    """List the actors of Serve on the cluster (controller, proxies, replicas): name and namespace of each."""
    return [actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE]


def _start(http_options: Mapping[str, object]) -> None:
    """Start Serve, with a second try: on a busy machine its proxy may be replaced before it has started.

    Raises OvssError if neither works.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # in the place of Ray's own handler, which ends at once
    for tries in (1, 2):
        try:
            return serve.start(proxy_location="HeadOnly", http_options=dict(http_options), logging_config=QUIET)
        except FAULTS as failure:
            if tries == 2:
                raise OvssError(
                    f"Ray Serve did not start, nor at a second try: {_brief(failure)}. When this machine is less busy, "
                    "give the same command again; or choose another --port"
                ) from failure
            _end()


def _deploy(service: Application) -> DeploymentHandle:
    try:
        return serve.run(service, name=NAME)
    except FAULTS as failure:
        raise OvssError(f"the service could not start: {_brief(failure)}") from failure


def _end() -> None:
    """Shut Serve down, and kill what it leaves: on somebody else's cluster, controller and proxies would stay."""
    if not cluster.answers():
        return
    with suppress(*FAULTS):
        serve.shutdown()
    for actor in _actors():
        with suppress(ValueError, RayError):  # it may be gone by now
            ray.kill(ray.get_actor(**actor))


def _brief(failure: Exception) -> str:
    """Return the last line of an error, in which Ray names what was raised inside an actor."""
    return next(iter(str(failure).strip().splitlines()[-1:]), type(failure).__name__).strip().rstrip(".")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _drain(service: DeploymentHandle, seconds: float) -> None:
    """Have the service take no more requests, and wait until those in hand are answered, as each is in so many seconds.

    One whose process has just died has none in hand.
    """
    print("ovss: answering what is in hand. A second signal ends at once", flush=True)
    with suppress(RayServeException, RayError, TimeoutError):
        service.drain.remote().result(timeout_s=seconds + FLUSH)
    time.sleep(FLUSH)


def _wait() -> NoReturn:
    while cluster.answers():
        time.sleep(1)
    raise OvssError("the cluster that served has ended. Give the same command again")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as failure:
        raise OvssError(f"{host}:{port} cannot be listened at: {failure.strerror}. Choose another --port") from failure
