"""Write label maps into the folder of the run, so that they can be looked at and scored again."""

import io
import zlib

import numpy as np
from PIL import Image

from ovss_ray import files, stage
from ovss_ray.columns import Batch
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """image_id, benchmark, prediction → a 16-bit PNG per image, `<folder>/<benchmark>/predictions/<image_id>.png`.

    Pixel values are class indices in the vocabulary; 65534 is NONE, no class. Writing a map twice changes nothing.
    """

    reads = ("benchmark", "prediction")
    writes = ()

    class Config(stage.Config):
        """Where to write, and how many of the maps."""

        folder: str
        """the folder of the run"""
        every: int = 1
        """keep about one map in so many, always the same ones"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Write the maps of a batch. Raises OvssError if the folder cannot be written."""
        for image_id, benchmark, prediction in zip(
            batch["image_id"], batch["benchmark"], batch["prediction"], strict=True
        ):
            if zlib.crc32(str(image_id).encode()) % self.config.every == 0:
                uri = files.join(self.config.folder, files.plain(benchmark), "predictions", f"{image_id}.png")
                files.write(uri, encode(prediction))
        return {}


def encode(label_map: np.ndarray) -> bytes:
    """Encode a label map (H, W) uint16 as a 16-bit PNG."""
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(label_map, np.uint16)).save(sink, "PNG", compress_level=1)
    return sink.getvalue()
