"""Small runs over made images, which the tests of a module share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.runs.folder import RunFolder
from tests.reports.documents import in_process
from tests.serve.http.conftest import browser, playwright

__all__ = ["browser", "playwright"]

HOSTILE = 'cat <script>alert("1")</script>'
NAMES = ["sky", HOSTILE, "a|b & $c_d$", "dog </script><b>"]


def data(folder: Path, images: int = 8) -> Path:
    """A folder of the user's own images, with names that would harm a page that does not escape them."""
    generator = np.random.default_rng(0)
    for kind in ("photos", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(images):
        name = f"{number}<b>.png"
        rows, columns = np.mgrid[:60, :80]
        labels = ((rows // 20 + columns // 27 + number) % len(NAMES)).astype(np.uint8)
        labels[:4] = 255
        Image.fromarray(generator.integers(0, 255, (60, 80, 3), np.uint8)).save(folder / "photos" / name)
        Image.fromarray(labels).save(folder / "labels" / name)
    listed = ", ".join("'" + name + "'" for name in NAMES)
    (folder / "mine.yaml").write_text(f"images: photos/*.png\nlabels: labels/*.png\nclasses: [{listed}]\nignore: 255\n")
    return folder


def evaluated(out: Path, root: Path, only: int | None = None, **config: object) -> RunFolder:
    return in_process.evaluate(out, root, only, **{"benchmarks": [f"folder:{root}/mine.yaml"], **config})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, root: Path) -> RunFolder:
    """A finished run of all images, with its label maps."""
    return evaluated(tmp_path_factory.mktemp("runs") / "coarse", root)


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory, root: Path) -> RunFolder:
    """A run with the classes in another order as own words, one of which has another name."""
    words = {"names": [[NAMES[3]], ["heaven"], [NAMES[1]], [NAMES[2]]], "map": {"heaven": "sky"}}
    return evaluated(tmp_path_factory.mktemp("runs") / "worded", root, vocabulary={"*": words})


@pytest.fixture(scope="module")
def finer(tmp_path_factory: pytest.TempPathFactory, root: Path) -> RunFolder:
    """A run of the same images by a better method."""
    return evaluated(tmp_path_factory.mktemp("runs") / "finer", root, options={"square": 12})
