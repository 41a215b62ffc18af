"""Evaluate several methods on several benchmarks, and compare them in one table.

The methods and benchmarks are those of configs/all.yaml. Each method starts its workers once, for all benchmarks.
Usage is that of jobs/eval_ade847.py; OUT gets a folder per method. DATA contains the data sets of all benchmarks.
--benchmark voc:20 evaluates this benchmark instead of the five in the config; it may be given several times.
--set compare=[san_tiny,sam_alpha_clip_tiny] compares these configs instead of the three.
"""

import sys

from ovss_ray.cli import app

if __name__ == "__main__":
    app.main(["evaluate", "all", *sys.argv[1:]])
