#!/usr/bin/env bash
#SBATCH --job-name=ovss
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --open-mode=append
#SBATCH --output=ovss-%j.log
#
# Run a command on a Ray cluster of this job's nodes, one or several. Submit it from the project's folder:
#
#     sbatch cluster/slurm.sh python jobs/eval_ade150.py --data-root /shared/data --out /shared/runs/ade150
#     sbatch --nodes=4 --gpus-per-node=8 cluster/slurm.sh \
#         python jobs/eval_all.py --data-root /shared/data --out /shared/runs/all --wait-for nodes=4
#
# This folder and $HOME have to be the same on all nodes. The command has to be one that resumes, as all jobs/ are.
# Three minutes before the time limit the command is interrupted (Ctrl-C), the Slurm job is requeued, and the same
# command goes on where it stopped, at most 50 times. If Slurm preempts the job, it requeues the job by itself.
# Other ends of the command are final: its exit status is that of the Slurm job.
# OVSS_INTERFACE=ib0 makes the nodes talk over this network interface; default is the one of the host name.
set -euo pipefail
umask 077

readonly MAX_RESTARTS=50
if [ $# = 0 ]; then
    echo "slurm.sh: no command. Usage: sbatch cluster/slurm.sh python jobs/eval_ade150.py --data-root DIR --out DIR" >&2
    exit 2
fi

# One node of the Ray cluster, in the foreground. The first one is the head; it computes as well.
# Ports are free ones, since other jobs may have nodes on the same machine.
# shellcheck disable=SC2329 # srun calls it
start_node() {
    local address ports
    if [ -n "${OVSS_INTERFACE:-}" ]; then
        address=$(ip -4 -oneline address show dev "$OVSS_INTERFACE" | awk '{sub("/.*", "", $4); print $4; exit}')
    else
        address=$(getent ahostsv4 "$(hostname)" | awk '{print $1; exit}')
        if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [[ "$address" == 127.* ]]; then
            echo "slurm.sh: $(hostname) has the address $address, which other nodes cannot reach." \
                "Name a network interface: OVSS_INTERFACE=eth0 sbatch …" >&2
            exit 1
        fi
    fi
    local start=(ray start --block --node-ip-address="$address" --num-cpus="$SLURM_CPUS_ON_NODE"
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0)
    if [ "$SLURM_PROCID" != 0 ]; then
        until [ -f "$OVSS_FOLDER/address" ]; do sleep 0.2; done
        exec "${start[@]}" --address="$(cat "$OVSS_FOLDER/address")"
    fi
    ports=$(python -c 'import socket, sys
sockets = [socket.create_server((sys.argv[1], 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))' "$address")
    echo "$address:${ports% *}" > "$OVSS_FOLDER/address.new"
    mv "$OVSS_FOLDER/address.new" "$OVSS_FOLDER/address" # other nodes see it whole
    exec "${start[@]}" --head --port="${ports% *}" --ray-client-server-port="${ports#* }" \
        --include-dashboard=false --temp-dir="/tmp/ray-$SLURM_JOB_ID"
}

# A folder of this job alone, with its token: no other user can read it, and it ends with the job.
export OVSS_FOLDER="$HOME/.ovss_slurm/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
mkdir -p "$OVSS_FOLDER"
python -c 'import secrets; print(secrets.token_hex(32))' > "$OVSS_FOLDER/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$OVSS_FOLDER/token"
export RAY_idle_worker_killing_time_threshold_ms=600000 RAY_USAGE_STATS_ENABLED=0
# The nodes share the environment. Under `uv run`, Ray would else install a copy of the project into it.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0

nodes='' command='' reason=''
# shellcheck disable=SC2329 # a trap calls it
finish() {
    if [ -n "$nodes" ]; then
        kill -TERM "$nodes" 2> /dev/null || true # srun passes it on to all nodes
        wait "$nodes" 2> /dev/null || true
    fi
    rm -rf "$OVSS_FOLDER"
}
trap finish EXIT

# Ctrl-C for the command: finished images are kept.
# shellcheck disable=SC2329 # a trap calls it
interrupt() {
    reason=$1
    echo "slurm.sh: $reason; the command is interrupted"
    if [ -n "$command" ]; then kill -INT -- "-$command" 2> /dev/null || true; fi
}
trap 'interrupt "the time limit is near"' USR1
trap 'interrupt "Slurm ends this job"' TERM

export -f start_node
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    bash -c 'set -euo pipefail; start_node' &
nodes=$!

until [ -f "$OVSS_FOLDER/address" ]; do
    kill -0 "$nodes" 2> /dev/null || { echo "slurm.sh: the nodes did not start; see the lines above" >&2; exit 1; }
    [ -z "$reason" ] || exit 1
    sleep 0.2
done
RAY_ADDRESS=$(cat "$OVSS_FOLDER/address")
export RAY_ADDRESS
until ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; do
    kill -0 "$nodes" 2> /dev/null || { echo "slurm.sh: the head did not start; see the lines above" >&2; exit 1; }
    [ -z "$reason" ] || exit 1
    sleep 0.2
done

set -m # a process group of its own: in background jobs of other shells, SIGINT is ignored
(exec "$@") &
command=$!
set +m
while kill -0 "$command" 2> /dev/null; do wait "$command" || true; done # a signal also ends `wait`
status=0
wait "$command" || status=$? # Bash remembers it

if [ "$reason" = "the time limit is near" ] && [ "$status" != 0 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
        echo "slurm.sh: requeued; the same command resumes"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "slurm.sh: requeued $MAX_RESTARTS times already. Submit the same command again to resume" >&2
    fi
fi
exit "$status"
