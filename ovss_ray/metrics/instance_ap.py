"""Mask AP by COCO's rules. The boxes of a detector are the prompts of the evaluated method.

    instance_ap                           mean over classes and over the IoU thresholds 0.50, 0.55, … 0.95
    instance_ap_50, _75                   mean over classes at the IoU threshold 0.50, 0.75
    instance_ap_small, _medium, _large    as instance_ap, for small, medium and large instances

A small instance has an area of at most 32² pixels. A medium instance has an area from 32² to 96² pixels. A large
instance has an area of at least 96² pixels. As in COCO's code, the limits are part of both ranges: an instance of
exactly 32² pixels is both small and medium.

The evaluated method predicts the class of a mask (see Question.named). The score of a mask is the detector's score of
the mask's box. For each class of an image, only the 100 masks with the highest scores are evaluated. Crowds do not
count as instances, and masks inside a crowd are ignored. Classes without an instance are left out of the means. If no
image has a mask, all values are NaN.

The values equal those of pycocotools' COCOeval with iouType "segm" for a results file without boxes. Values are
percent. Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014;
https://cocodataset.org/#detection-eval.
"""

import numpy as np
import pyarrow as pa

from ovss_ray.structures.instances import CROWD
from ovss_ray.structures.masks import average_precision
from ovss_ray.structures.masks.average_precision import Labelled
from ovss_ray.structures.question import Question

reads = (
    *("image_number", "true_boxes", "true_bits", "true_labels", "true_areas", "true_status"),
    *("boxes", "bits", "scores", "detector_scores"),
)
schema = pa.struct(average_precision.FIELDS)
title = "Mask AP of a detector's boxes by COCO's rules, in percent"
order = 8
headings = average_precision.headings("instance_ap", "mask AP")
group_headings = {"instance_ap": "mask AP"}
class_headings = {"instance_ap": "mask AP"}

MOST = 100
"""Maximum number of masks that are evaluated for each class of an image."""


def measure(
    question: Question, image_number: np.ndarray, true_boxes: np.ndarray, true_bits: np.ndarray,
    true_labels: np.ndarray, true_areas: np.ndarray, true_status: np.ndarray, boxes: np.ndarray, bits: np.ndarray,
    scores: np.ndarray, detector_scores: np.ndarray,
) -> dict[str, object]:  # fmt: skip
    """Return the record of one image, with the fields average_precision.FIELDS.

    Each argument except `question` is the image's value in the column of the same name (see structures.columns).
    Raises OvssError unless each box of the detector has one mask and one row of `scores`.
    """
    average_precision.paired(boxes, scores, detector_scores)
    labels, _ = question.named(scores)
    true, detected = Labelled(true_labels, true_boxes, true_bits), Labelled(labels, boxes, bits)
    crowd, listed = true_status == CROWD, np.arange(len(labels))
    values = average_precision.record(true, true_areas, crowd, detected, detector_scores, listed, MOST)
    return {"image": int(image_number), **values}


class Partial(average_precision.Outcomes):
    """Predicted masks of a set of images. A mask is matched, unmatched or ignored (see average_precision.Outcomes)."""

    metric = "instance_ap"
