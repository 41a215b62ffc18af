"""Serve models on a Ray cluster over HTTP: `ovss serve` as a job. docs/serving.md describes the options.

    ray job submit --address http://HEAD:8265 --working-dir . --no-wait -- \
        python jobs/serve.py san_vit_b_16

`ray job stop` with the id of the job ends the service.
"""

import sys

from ovss_ray.cli import app

if __name__ == "__main__":
    app.main(["serve", *sys.argv[1:]])
