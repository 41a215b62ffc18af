"""Evaluate SAN on ADE20K with 150 classes. Usage and options are those of jobs/eval_ade847.py.

DATA contains the folder ADEChallengeData2016; `ovss download ade20k:150` gets it.
"""

import functools
import sys

import ovss_ray
from ovss_ray.cli import evaluation

if __name__ == "__main__":
    job = ["san_vit_b_16", "--benchmark", "ade20k:150", *sys.argv[1:]]
    evaluation.script(functools.partial(ovss_ray.evaluate, progress=True), job)
