"""A stub of Slurm: `srun` starts the tasks on this machine, `scontrol requeue` notes the request.

Written as programs to a folder that comes first in PATH.
"""

from pathlib import Path

SRUN = """#!/usr/bin/env bash
# Each task is a "node". Signals are passed on to the tasks, as Slurm's srun does.
tasks=1
while [[ "$1" == --* ]]; do
    case "$1" in --ntasks=*) tasks=${1#*=} ;; esac
    shift
done
pids=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null' TERM
for ((number = 0; number < tasks; number++)); do
    SLURM_PROCID=$number "$@" &
    pids+=($!)
done
while kill -0 "${pids[@]}" 2> /dev/null; do wait; done
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$STUB_CALLS"
"""


def install(folder: Path) -> Path:
    """Write the programs. Return the file in which calls of `scontrol` are noted, a line each."""
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder / "calls"
