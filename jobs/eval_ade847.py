"""Evaluate SAN on ADE20K with 847 classes: on a cluster, on a `ray start` of this machine, or on nothing at all.

A cluster, from anywhere (RAY_AUTH_MODE=token on every side; all nodes see DATA and RUNS, which may be s3:// addresses):

    ray job submit --address http://HEAD:8265 --working-dir . -- \
        python jobs/eval_ade847.py --data-root DATA --out RUNS/ade847

This machine:

    python jobs/eval_ade847.py --data-root DATA

DATA holds ADE20K_2021_17_01, as its authors send it or prepared by detectron2's script. All options of `ovss evaluate`
hold: --limit 20 tries it out, --set san.variant=san_vit_large_14 takes the larger network. The same command again
resumes a run that was cut off.
"""

import functools
import sys

import ovss_ray
from ovss_ray.cli import evaluation

if __name__ == "__main__":
    job = ["san_vit_b_16", "--benchmark", "ade20k:847", *sys.argv[1:]]
    evaluation.script(functools.partial(ovss_ray.evaluate, progress=True), job)
