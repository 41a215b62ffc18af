#!/usr/bin/env bash
# The GPU kit on a machine with PyTorch, without a network: installs the packed wheels into a folder, and measures.
# From a packed folder or a checkout: bash perf/gpu/run.sh --only parity,san
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

for wheels in "$root/wheels" "$root/build/gpu/wheels"; do
    if compgen -G "$wheels/*.whl" > /dev/null; then
        site=$(mktemp -d)
        trap 'rm -rf "$site"' EXIT
        for wheel in "$wheels"/*.whl; do # only what the machine lacks: its own torch, numpy and the like stay
            name=$(basename "$wheel" | cut -d- -f1)
            if ! "$python" -c "import importlib.metadata as m; m.version('$name')" 2> /dev/null; then
                "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheel"
            fi
        done
        export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
        break
    fi
done

cd "$root"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$python" -m perf.gpu "$@"
