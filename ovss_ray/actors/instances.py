"""Decode the true instances of images, each with the decoder of its benchmark."""

from collections.abc import Mapping

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import digests
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import TRUE, Batch, column
from ovss_ray.structures.instances import Instances
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Decode the true instances of an image from the file at `truth_uri`.

    The columns of the instances begin with `true_`, such as `true_boxes`. The column `image_number` is the image's
    number in the annotations. The column `truth_digest` is the digest of the file.
    """

    reads = ("benchmark", "image_uri", "truth_uri", "part", "size")
    writes = (*TRUE, "image_number", "truth_digest")

    benchmarks: Mapping[str, Benchmark]

    def __init__(self, config: Settings, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._read = digests.Reader()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode the instances of every image.

        Raises OvssError for an unreadable file, or if the photograph's size differs from the annotated size.
        """
        items = map(Item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        decoded, digests_read = [], []
        for name, item, size in zip(batch["benchmark"], items, batch["size"], strict=True):
            data, digest = self._read(item.truth)
            decoded.append(_of_size(self._decoded(name, item, data), size, item.image))
            digests_read.append(digest)
        rows = [instances.columns() for instances in decoded]
        columns = {name: column(row[i] for row in rows) for i, name in enumerate(TRUE)}
        numbers = column(np.array(instances.number, np.int64) for instances in decoded)
        return {**columns, "image_number": numbers, "truth_digest": column(digests_read)}

    def _decoded(self, name: str, item: Item, data: bytes) -> Instances:
        decode = self.benchmarks[name].instances
        if decode is None:
            raise OvssError(f"{name} has no instances. Use a benchmark such as coco:instances or scenes:instances")
        return decode(item, data)


def _of_size(instances: Instances, size: np.ndarray, photograph: str) -> Instances:
    """Return the instances. Raises OvssError if the photograph's size (H, W) differs from the annotated size."""
    if instances.size != tuple(size.tolist()):
        (height, width), (annotated_height, annotated_width) = size.tolist(), instances.size
        raise OvssError(
            f"{photograph}: the photograph has {height} × {width} pixels (height × width), but its annotations are for "
            f"{annotated_height} × {annotated_width}. Use the original photographs of the data set, not resized ones"
        )
    return instances
