"""The instances of the small COCO set of Open-Vocabulary SAM's goldens, decoded by pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api


def shapes(annotations: Path, file_name: str) -> list[tuple[list[float], np.ndarray]]:
    """Box x0 y0 x1 y1 and mask (H, W) bool of each annotation of an image that is no crowd, in the file's order."""
    content = json.loads(annotations.read_text())
    image = next(image for image in content["images"] if image["file_name"] == file_name)
    size = image["height"], image["width"]
    listed = [shape for shape in content["annotations"] if shape["image_id"] == image["id"] and not shape["iscrowd"]]
    return [(corners(shape["bbox"]), decoded(shape["segmentation"], *size)) for shape in listed]


def corners(bbox: list[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def decoded(shape: Any, height: int, width: int) -> np.ndarray:
    packed = mask_api.frPyObjects(shape, height, width) if not isinstance(shape, dict) else shape
    if isinstance(shape, dict) and isinstance(shape["counts"], list):
        packed = mask_api.frPyObjects(shape, height, width)
    merged = mask_api.merge(packed) if isinstance(packed, list) else packed
    return mask_api.decode(merged).astype(bool)
