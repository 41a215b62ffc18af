#!/usr/bin/env bash
# The GPU kit on a machine with PyTorch, without a network: unpacks the wheels that the machine lacks, and measures.
# From a packed folder or a checkout: bash perf/gpu/run.sh --only parity,san
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for wheels in "$root/wheels" "$root/build/gpu/wheels"; do
    "$python" - "$wheels" "$site" <<'END' # its own torch, numpy and the like stay
import importlib.metadata, pathlib, sys, zipfile

for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        zipfile.ZipFile(wheel).extractall(sys.argv[2])
END
done

cd "$root"
PYTHONPATH="$root:$site${PYTHONPATH:+:$PYTHONPATH}" "$python" -m perf.gpu "$@"
