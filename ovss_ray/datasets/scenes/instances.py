"""The benchmark scenes:instances: mask, class and box of each thing in a scene, for methods that are prompted."""

from dataclasses import replace

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.io import images
from ovss_ray.structures.instances import COUNTED, Instances
from ovss_ray.structures.masks import regions

VISIBLE = 64
"""pixels: smallest visible area of a thing that counts as an instance."""


def of_instances(base: Benchmark) -> Benchmark:
    """Return a benchmark with the scenes of `base`. The ground truth is the mask, class and box of each thing."""

    def items(root: str, split: str) -> list[Item]:
        return [replace(item, truth=item.truth.replace("_labels", "_instances")) for item in base.items(root, split)]

    title = "Drawn scenes, things on their own"
    return replace(base, title=title, items=items, truth=truth_of_instances, instances=instances)


def instances(item: Item, data: bytes) -> Instances:
    """Decode the instance file of a scene: one instance per thing with at least VISIBLE pixels.

    Raises OvssError for a damaged file.
    """
    values = images.decode_labels(data, item.truth)
    numbers, areas = np.unique(values[values > 0], return_counts=True)
    numbers, areas = numbers[areas >= VISIBLE], areas[areas >= VISIBLE]
    boxes, bits = regions.pack(values == number for number in numbers)
    return Instances(
        (values.shape[0], values.shape[1]),
        boxes,
        bits,
        labels=(numbers % 1000).astype(np.uint16),
        frames=boxes.astype(np.float32),
        areas=areas.astype(np.float64),
        status=np.full(len(numbers), COUNTED, np.uint8),
        number=int(item.image_id),
    )


def truth_of_instances(item: Item, data: bytes) -> np.ndarray:
    """Return a label map (H, W) uint16: label of the instance at each pixel, IGNORE outside all instances.

    Raises OvssError for a damaged file.
    """
    return instances(item, data).label_map()
