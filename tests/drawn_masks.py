"""A data set of instances with a detector's boxes, a stage that draws a mask in each box, and pycocotools' AP of both.

The stage kills its worker once, when both workers of its pool have begun.
"""

import contextlib
import io
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovss_ray.datasets.coco import THINGS
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.masks import regions
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies
from tests.toys import commit, witness

SIZE = (120, 160)
CLASSES = 4
ANNOTATIONS, BOXES = "annotations/instances_val2017.json", "boxes.json"


def ellipse(box: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) bool of the ellipse in a box x0 y0 x1 y1."""
    (x, y), (a, b) = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1) / 2
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((u - x) / a) ** 2 + ((v - y) / b) ** 2 <= 1


def label(left: np.ndarray) -> np.ndarray:
    """Return the class of boxes from their left edges in pixels."""
    return left.astype(int) // 16 % CLASSES


def write(root: Path, images: int) -> None:
    """Write black photographs in COCO's layout, with drawn instances and moved boxes, some of them crowds or wrong."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    drawn = np.random.default_rng(5)
    listed, things, boxes = [], [], []
    for number in range(1, images + 1):
        Image.new("RGB", SIZE[::-1]).save(root / f"val2017/{number:012}.jpg")
        listed.append({"id": number, "height": SIZE[0], "width": SIZE[1], "file_name": f"{number:012}.jpg"})
        for _ in range(4):
            corner, sides = drawn.integers(0, 60, 2), drawn.integers(12, 60, 2)
            code = coco_masks.encode(np.asfortranarray(ellipse(np.concatenate([corner, corner + sides])), np.uint8))
            shape = {"bbox": [*corner.tolist(), *sides.tolist()], "area": float(coco_masks.area(code))}
            shape["segmentation"] = {"size": SIZE, "counts": code["counts"].decode()}
            category, crowd = THINGS[int(label(corner[0]))], int(len(things) % 7 == 3)
            known = {"id": len(things) + 1, "image_id": number, "category_id": category, "iscrowd": crowd}
            things.append(known | shape)
            for _ in range(2):
                moved = [*(corner + drawn.integers(-3, 4, 2)).tolist(), *(sides + drawn.integers(-3, 4, 2)).tolist()]
                score = float(drawn.choice([0.25, 0.5, 0.75, drawn.random()]))  # some are equal
                boxes.append({"image_id": number, "category_id": 1, "bbox": moved, "score": score})
    categories = [{"id": category, "name": str(category)} for category in THINGS]
    content = {"info": {}, "images": listed, "annotations": things, "categories": categories}
    (root / ANNOTATIONS).write_text(json.dumps(content))
    (root / BOXES).write_text(json.dumps(boxes))


def reference(root: Path, results: Path) -> float:
    """Return pycocotools' mask AP, in percent, of the files of results that a run wrote."""
    masks = [result for file in sorted(results.glob("*.json")) for result in json.loads(file.read_text())]
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(root / ANNOTATIONS))
        evaluation = COCOeval(official, official.loadRes(masks), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


class Stage(stage.Stage):
    """Boxes of a detector → the ellipse in each, and the scores of a class that depends on the box."""

    reads = ("prompt_boxes", "vocabulary")
    writes = ("boxes", "bits", "scores")
    where = ("witness", "killer")

    class Config(Settings):
        witness: str
        """a file that every image is written into, one line each, when it is begun"""
        killer: str = ""
        """image that kills its worker the first time"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        for image_id in batch["image_id"]:
            earlier = self._begun(image_id)
            if image_id == self.config.killer and not earlier:
                commit("kill")
        corners = [boxes[:, 0] for boxes in batch["prompt_boxes"]]
        packed = [regions.pack(map(ellipse, of_image)) for of_image in corners]
        counts = [len(vocabularies[digest]) for digest in batch["vocabulary"]]
        classes = [label(of_image[:, 0]) for of_image in corners]
        scores = (9 * np.eye(count, dtype=np.float32)[each] for count, each in zip(counts, classes, strict=True))
        shapes = ([row[i] for row in packed] for i in range(2))
        return dict(zip(self.writes, [*map(column, shapes), column(scores)], strict=True))

    def _begun(self, image_id: str) -> bool:
        """Note an image, wait for another worker, and return whether the image was begun before."""
        file = Path(self.config.witness)
        earlier = file.exists() and any(line.startswith(f"{image_id}@") for line in file.read_text().split())
        witness(str(file), image_id)
        until = time.monotonic() + 60
        while len({line.partition("@")[2] for line in file.read_text().split()}) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        return earlier
