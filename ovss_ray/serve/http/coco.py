"""COCO documents of masks, in the format at https://cocodataset.org/#format-data.

pycocotools can read the documents. As in COCO's results, annotations also have a `score`. In the web page,
static/coco.js writes the same documents.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from ovss_ray.serve.http.answers import Runs
from ovss_ray.serve.http.mask_answers import Mask, Prompted, Regions

UNNAMED = "object"
"""Name of the only category if no classes were requested"""


class Info(BaseModel):
    """The origin of a document."""

    description: str
    model: str
    total: int = Field(description="number of masks; the document has the largest, up to the service's limit")


class Image(BaseModel):
    """The image of a document. There is only one, with id 1."""

    id: int
    file_name: str = Field(description="the request's `file_name`; by default the sha256 of the image")
    width: int
    height: int


class Annotation(BaseModel):
    """A mask with the most probable of its classes."""

    id: int = Field(description="from 1, in the order of the JSON answer")
    image_id: int
    category_id: int
    segmentation: Runs
    bbox: tuple[int, int, int, int] = Field(description="x y width height in pixels")
    area: int = Field(description="pixels")
    iscrowd: Literal[0] = 0
    score: float = Field(description="probability of the class; without classes the predicted IoU")
    predicted_iou: float = Field(description="IoU with an object as SAM predicts it, about 0 to 1")


class Category(BaseModel):
    """A requested class."""

    id: int = Field(description="position in the requested classes, from 1")
    name: str


class Coco(BaseModel):
    """A COCO document with the masks in one image. Empty masks are left out."""

    info: Info
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


def document(answer: Regions | Prompted, names: Sequence[str], file_name: str | None) -> Coco:
    """Return the COCO document of an answer.

    `names`: the requested classes. If `names` is empty, all masks have the category UNNAMED. `file_name`: name of the
    image; None: the sha256 of the image.
    """
    masks = answer.regions if isinstance(answer, Regions) else answer.masks
    present = [mask for mask in masks if mask.area]
    total = answer.found if isinstance(answer, Regions) else len(present)
    image = Image(id=1, file_name=file_name or answer.image, width=answer.width, height=answer.height)
    return Coco(
        info=Info(description="masks from ovss_ray", model=answer.model, total=total),
        images=[image],
        annotations=[_annotation(number, mask) for number, mask in enumerate(present, 1)],
        categories=[Category(id=number, name=name) for number, name in enumerate(names or [UNNAMED], 1)],
    )


def _annotation(number: int, mask: Mask) -> Annotation:
    x0, y0, x1, y1 = mask.box
    best = mask.names[0] if mask.names else None
    return Annotation(
        id=number,
        image_id=1,
        category_id=best.index + 1 if best else 1,
        segmentation=mask.rle,
        bbox=(x0, y0, x1 - x0, y1 - y0),
        area=mask.area,
        score=best.score if best else mask.predicted_iou,
        predicted_iou=mask.predicted_iou,
    )
