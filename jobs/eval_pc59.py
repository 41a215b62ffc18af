"""Evaluate SAN on PASCAL-Context with its 59 most frequent classes. Usage and options are those of jobs/eval_ade847.py.

DATA contains the folder VOCdevkit/VOC2010; `ovss download pascal_context:59` gets it.
"""

import functools
import sys

import ovss_ray
from ovss_ray.cli import evaluation

if __name__ == "__main__":
    job = ["san_vit_b_16", "--benchmark", "pascal_context:59", *sys.argv[1:]]
    evaluation.script(functools.partial(ovss_ray.evaluate, progress=True), job)
