"""Print the variables of this shell that a submitted job needs, for `ray job submit --runtime-env`.

    ray job submit --address http://HEAD:8265 --working-dir . --runtime-env <(python jobs/environment.py HF_TOKEN) -- \
        python jobs/eval_ade847.py --data-root DATA --out RUNS/ade847

OVSS_WEIGHTS and OVSS_CACHE are printed if they are set; all nodes need to see these folders. Keys, such as HF_TOKEN,
AWS_ACCESS_KEY_ID or WANDB_API_KEY, are printed only if the command names them. All processes of the job get them.
<(…), of Bash and Zsh, keeps them out of files and of the list of processes. Ray's dashboard and its logs show the
variables of a job, so pass keys only on a cluster that is yours.
"""

import json
import os
import sys
from collections.abc import Sequence

from ovss_ray.runs.plan import HANDED_ON


def main(names: Sequence[str]) -> None:
    """Print the variables in HANDED_ON that are set, and those in `names`. Exit with status 2 if one is not set."""
    if missing := [name for name in names if name not in os.environ]:
        print(f"{', '.join(missing)}: not set in this shell. Type: export {missing[0]}=VALUE", file=sys.stderr)
        sys.exit(2)
    variables = {name: os.environ[name] for name in (*HANDED_ON, *names) if name in os.environ}
    print(json.dumps({"env_vars": variables}))


if __name__ == "__main__":
    main(sys.argv[1:])
