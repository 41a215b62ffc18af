"""Storage of arrays in shards. A shard is a safetensors file with many arrays, one array per key.

A shard also contains the source of the arrays. The source describes what computed the arrays, such as the name and the
digest of a network. The file name of a shard is a digest of the source and of all keys in the shard.

The function `write` can write to any file system. The class `Shards` can read only from a local folder.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ovss_ray.errors import OvssError
from ovss_ray.io import files

ENDING = ".safetensors"
SOURCE = "source"
"""Metadata key under which a shard stores its source"""


def write(folder: str, arrays: Mapping[str, np.ndarray], source: str) -> str:
    """Write arrays as one shard of a folder, and return the shard's address.

    A shard with the same source and the same keys is replaced. A failure leaves no partial shard.
    """
    digest = hashlib.sha256("\n".join([source, *sorted(arrays)]).encode()).hexdigest()[:24]
    address = files.join(folder, digest + ENDING)
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    files.write(address, safetensors.numpy.save(contiguous, {SOURCE: source}))
    return address


class Shards:
    """Reader of the arrays in a local folder of shards. Each call of `get` reads one array from a shard.

    Raises OvssError if the folder has no shards, or if a shard is damaged.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.places: dict[str, Path] = {}
        self.sources: dict[str, Path] = {}
        """source → path of the first file with this source; the source \"\" is for shards without a source"""
        for file in sorted(self.folder.glob(f"*{ENDING}")):
            try:
                with safetensors.safe_open(file, "np") as shard:
                    # after a killed run, a key may be in several shards of a source, with equal arrays
                    self.places |= dict.fromkeys(shard.keys(), file)
                    self.sources.setdefault((shard.metadata() or {}).get(SOURCE, ""), file)
            except (OSError, safetensors.SafetensorError) as failure:
                raise OvssError(f"{file} is damaged: {failure}. Delete it, and write it again") from failure
        if not self.places:
            raise OvssError(f"{self.folder} has no shards (*{ENDING}). Check the path of the folder")

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __len__(self) -> int:
        return len(self.places)

    def get(self, key: str) -> np.ndarray:
        """Return the array of a key. Raises OvssError if no shard has the key."""
        if key not in self.places:
            raise OvssError(
                f"{self.folder}: no shard has the key {key!r}. The shards have {len(self.places)} other keys. Write "
                "the array of this key, or check the path of the folder"
            )
        with safetensors.safe_open(self.places[key], "np") as shard:
            array: np.ndarray = shard.get_tensor(key)
            return array
