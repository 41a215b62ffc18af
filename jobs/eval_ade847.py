"""Evaluate SAN on ADE20K with 847 classes: on a cluster, on a `ray start` of this machine, or on nothing at all.

A cluster, from anywhere (RAY_AUTH_MODE=token on every side; all nodes see DATA and RUNS, which may be s3:// addresses):

    ray job submit --address http://HEAD:8265 --working-dir . -- \
        python jobs/eval_ade847.py --data-root DATA --out RUNS/ade847

This machine:

    python jobs/eval_ade847.py --data-root DATA

DATA holds ADE20K_2021_17_01, as its authors send it or prepared by detectron2's script. What else is typed goes to
`ovss evaluate`: --limit 20 tries it out, --set san.variant=san_vit_large_14 takes the larger network, and the same
command again goes on where a run was cut off.
"""

import sys

from ovss_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", "san_vit_b_16", "--benchmark", "ade20k:847", *sys.argv[1:]])
