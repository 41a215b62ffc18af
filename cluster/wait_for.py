"""Wait until a Ray cluster has the nodes, CPUs and GPUs that a run needs. An autoscaler is asked for the CPUs and GPUs.

    python cluster/wait_for.py nodes=2 GPU=16 && python jobs/eval_ade847.py --data-root DATA --out RUNS/ade847

A run is placed on the nodes that exist when it starts. This command is for clusters whose nodes come later.
`nodes` counts live nodes that have CPUs or GPUs, so a head without CPUs is not counted. GPU and CPU are totals.
`nodes` alone starts no nodes: on a cluster with an autoscaler, name the GPUs or CPUs as well.
--seconds is the time limit (default 1800). The exit status is 2 if the nodes have not come by then.
The cluster is the one of the job, or the one that RAY_ADDRESS names.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping

import ray
from ray.autoscaler.sdk import request_resources

PAUSE = 2.0
"""Seconds between two looks at the cluster"""


def amount(text: str) -> tuple[str, int]:
    """Return the kind and number of an argument such as "GPU=8". Raises ArgumentTypeError for others."""
    kind, _, number = text.partition("=")
    if kind not in ("nodes", "CPU", "GPU") or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected nodes=N, CPU=N or GPU=N, such as GPU=8")
    return kind, int(number)


def available() -> Counter[str]:
    """Return the number of live nodes with CPUs or GPUs ("nodes"), and their "CPU" and "GPU" in total."""
    total: Counter[str] = Counter()
    for node in ray.nodes():
        resources = {kind: int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU")}
        if node["Alive"] and any(resources.values()):
            total.update(resources, nodes=1)
    return total


def connect(until: float) -> None:
    """Connect to the cluster. Until a time of time.monotonic, retry while its head starts. Raises ConnectionError."""
    while True:
        try:
            ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
            return
        except ConnectionError:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)


def request(needed: Mapping[str, int]) -> None:
    """Ask the autoscaler for CPUs and GPUs. Its previous request ends. Without an autoscaler, Ray ignores this."""
    request_resources(num_cpus=needed.get("CPU", 0), bundles=[{"GPU": 1}] * needed.get("GPU", 0))


def wait(needed: Mapping[str, int], until: float) -> bool:
    """Wait until a time of time.monotonic, and print each change. Return whether the cluster has what is needed."""
    before = None
    while True:
        present = available()
        state = ", ".join(f"{kind} {present[kind]} of {number}" for kind, number in needed.items())
        if state != before:
            print(f"waiting for the cluster: {state}", flush=True)
        if all(present[kind] >= number for kind, number in needed.items()):
            return True
        if time.monotonic() > until:
            return False
        before = state
        time.sleep(PAUSE)


def main() -> None:
    """Parse the arguments, wait, and exit with status 2 if the nodes have not come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("needed", nargs="+", type=amount, metavar="nodes=N|CPU=N|GPU=N")
    parser.add_argument("--seconds", type=float, default=1800)
    arguments = parser.parse_args()
    needed = dict(arguments.needed)
    if len(needed) < len(arguments.needed):
        parser.error("nodes, CPU and GPU may each be given once")
    until = time.monotonic() + arguments.seconds
    connect(until)
    request(needed)
    try:
        complete = wait(needed, until)
    finally:
        request({})  # else the autoscaler would keep these nodes for ever, also idle ones
    if not complete:
        print(
            f"the cluster is still too small after {arguments.seconds:g} s. `ray status` names the nodes that did not "
            "start. Lower the numbers, or wait longer with --seconds",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
