"""Evaluate SAN on COCO-Stuff with 171 classes. Usage and options are those of jobs/eval_ade847.py.

DATA contains the folder coco; `ovss download coco:stuff` gets it.
"""

import functools
import sys

import ovss_ray
from ovss_ray.cli import evaluation

if __name__ == "__main__":
    job = ["san_vit_b_16", "--benchmark", "coco:stuff", *sys.argv[1:]]
    evaluation.script(functools.partial(ovss_ray.evaluate, progress=True), job)
