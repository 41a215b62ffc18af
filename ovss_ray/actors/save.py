"""Write predicted label maps into the run folder, so that they can be viewed and scored again."""

import io
import zlib

import numpy as np
from PIL import Image

from ovss_ray.io import files
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Write predictions to 16-bit PNG files `<folder>/<benchmark>/predictions/<image_id>.png`.

    Pixel values are class indices in the vocabulary; 65534 (NONE) means no class.
    """

    reads = ("benchmark", "prediction")
    writes = ()

    class Config(Settings):
        """The run folder, and the fraction of the label maps that is written."""

        folder: str
        """path of the run folder"""
        every: int = 1
        """divisor: with 10, about one label map in 10 is written; the choice depends only on the image's id"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Write the maps of a batch. Raises OvssError if the folder is not writable."""
        for image_id, benchmark, prediction in zip(
            batch["image_id"], batch["benchmark"], batch["prediction"], strict=True
        ):
            if zlib.crc32(str(image_id).encode()) % self.config.every == 0:
                uri = files.join(self.config.folder, files.plain(benchmark), "predictions", f"{image_id}.png")
                files.write(uri, encode(prediction))
        return {}


def encode(label_map: np.ndarray) -> bytes:
    """Return a label map (H, W) uint16 as the bytes of a 16-bit PNG."""
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(label_map, np.uint16)).save(sink, "PNG", compress_level=1)
    return sink.getvalue()
