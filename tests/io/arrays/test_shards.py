"""Arrays in shards: what is written is read back by its key, also after a kill between a shard and its record."""

from pathlib import Path

import numpy as np
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.io.arrays import shards

SOURCE = "a network"
ARRAYS = {f"image {i}": np.arange(6, dtype=np.float16).reshape(2, 3) + i for i in range(4)}


def test_each_array_comes_back_under_its_key_whatever_shard_it_is_in(tmp_path: Path) -> None:
    first, second = ({key: ARRAYS[key] for key in keys} for keys in (["image 0", "image 1"], ["image 2", "image 3"]))
    addresses = [shards.write(str(tmp_path), part, SOURCE) for part in (first, second)]
    assert len({*addresses}) == len(list(tmp_path.iterdir())) == 2
    stored = shards.Shards(str(tmp_path))
    assert len(stored) == 4
    assert "image 4" not in stored
    for key, array in ARRAYS.items():
        assert stored.get(key).dtype == np.float16
        assert np.array_equal(stored.get(key), array)


def test_the_same_arrays_again_replace_their_shard_and_others_may_repeat_a_key(tmp_path: Path) -> None:
    for _ in range(2):
        shards.write(str(tmp_path), ARRAYS, SOURCE)
    shards.write(str(tmp_path), {"image 1": ARRAYS["image 1"], "image 9": ARRAYS["image 0"]}, SOURCE)
    assert len(list(tmp_path.iterdir())) == 2
    stored = shards.Shards(str(tmp_path))
    assert len(stored) == 5
    assert np.array_equal(stored.get("image 1"), ARRAYS["image 1"])


def test_arrays_of_another_source_replace_none_and_every_source_is_listed(tmp_path: Path) -> None:
    files = {source: Path(shards.write(str(tmp_path), ARRAYS, source)) for source in ("one", "other")}
    assert shards.Shards(str(tmp_path)).sources == files


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"has no shards \(\*\.safetensors\)"):
        shards.Shards(str(tmp_path))
    address = shards.write(str(tmp_path), ARRAYS, SOURCE)
    with pytest.raises(OvssError, match=r"no shard has the key 'image 7'\. The shards have 4 other keys"):
        shards.Shards(str(tmp_path)).get("image 7")
    content = Path(address).read_bytes()
    Path(address).write_bytes(content[:-20])
    with pytest.raises(OvssError, match=r"\.safetensors is damaged: .*Delete it, and write it again"):
        shards.Shards(str(tmp_path))
