"""Listing LVIS: memory and time of listing the images and writing the manifest, against json.load of the whole file.

The file is made up: polygons of 40 corners and other entries as in lvis_v1_val.json, about 700 bytes an annotation.
The photographs are empty files. Each side runs in a process of its own, whose peak resident set is taken.
All files are deleted at the end.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from perf.timing import show, spread, titled

IMAGES = 19_809
STREAMED = """
import sys
from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.runs import manifest
table = manifest.build("lvis", load("lvis"), sys.argv[1], Selection("val"))
manifest.save(table, sys.argv[1] + "/manifest.parquet")
number = len(manifest.load(sys.argv[1] + "/manifest.parquet"))
"""
WHOLE = """
import json, sys
with open(sys.argv[1] + "/lvis/lvis_v1_val.json") as file:
    number = len(json.load(file)["images"])
"""
PEAK = "\nimport resource\nprint(number, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"


def measure(megabytes: int, rounds: int) -> None:
    """Print the table: peak memory and seconds of each side."""
    with tempfile.TemporaryDirectory(prefix="ovss_listing_") as folder:
        size = write(Path(folder), megabytes * 1_000_000)
        table = titled(f"Listing a file of {size / 1e9:.2f} GB", "side", "images", "peak GB", "seconds")
        for name, script in {"list and manifest": STREAMED, "json.load": WHOLE}.items():
            found = [run(script + PEAK, folder) for _ in range(rounds)]
            images, peaks, seconds = (np.array(values) for values in zip(*found, strict=True))
            table.add_row(name, str(int(images[0])), spread(peaks), spread(seconds, 0))
        show(table, "The peak is the resident set of the whole process, with Python and its libraries.")


def run(script: str, root: str) -> tuple[float, float, float]:
    """Images, peak of the resident set in GB, and seconds of a script in a process of its own."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, root], stdout=subprocess.PIPE, text=True, check=True)
    images, peak = done.stdout.split()
    return int(images), float(peak), time.perf_counter() - begun


def write(root: Path, size: int) -> int:
    """Write lvis/lvis_v1_val.json of about `size` bytes, and return its size."""
    generator = np.random.default_rng(0)
    polygons = [json.dumps([generator.uniform(0, 640, 80).round(2).tolist()]) for _ in range(500)]
    for folder in ("lvis/val2017", "lvis/train2017"):
        (root / folder).mkdir(parents=True)
    file = root / "lvis/lvis_v1_val.json"
    address = "http://images.cocodataset.org/val2017"
    with file.open("w") as stream:
        stream.write('{"info": {}, "images": [')
        for image in range(1, IMAGES + 1):
            entry = {"id": image, "height": 480, "width": 640, "coco_url": f"{address}/{image:012}.jpg"}
            entry |= {"neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": [4]}
            (root / f"lvis/val2017/{image:012}.jpg").touch()
            stream.write(json.dumps(entry) + ", " * (image < IMAGES))
        stream.write('], "annotations": [')
        number = 0
        while not number or stream.tell() < size:
            number += 1
            image, category = generator.integers(1, IMAGES + 1), generator.integers(1, 1204)
            box = '"area": 1200.5, "bbox": [10.5, 20.25, 100.0, 80.75]'
            ids = f'"id": {number}, "image_id": {image}, "category_id": {category}'
            stream.write(f'{", " * (number > 1)}{{{ids}, {box}, "segmentation": {polygons[number % 500]}}}')
        stream.write('], "categories": []}')
    return file.stat().st_size
