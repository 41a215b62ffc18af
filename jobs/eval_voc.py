"""Evaluate SAN on PASCAL VOC 2012, without and with background. Usage and options are those of jobs/eval_ade847.py.

DATA contains the folder VOCdevkit/VOC2012; `ovss download voc:20` gets it.
"""

import functools
import sys

import ovss_ray
from ovss_ray.cli import evaluation

if __name__ == "__main__":
    job = ["san_vit_b_16", "--benchmark", "voc:20", "--benchmark", "voc:20b", "--benchmark", "voc:21", *sys.argv[1:]]
    evaluation.script(functools.partial(ovss_ray.evaluate, progress=True), job)
