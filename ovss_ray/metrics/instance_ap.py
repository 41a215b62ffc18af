"""Mask AP by COCO's rules. The boxes of a detector are the prompts of the evaluated method.

    instance_ap        mean over classes and IoU thresholds 0.50, 0.55, … 0.95
    instance_ap_50, _75                   at the threshold 0.50, 0.75
    instance_ap_small, _medium, _large    of instances below 32², from 32² to 96², and above 96² pixels

The evaluated method predicts the class of a mask (see Question.named). The score of a mask is the detector's score of
the mask's box. In each image, at most 100 masks of each class count: those with the highest scores. Crowds do not count
as instances, and masks inside a crowd are ignored. Classes without an instance are left out of the means. If no image
has a mask, all values are NaN.

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
"""Maximum number of masks that count per image and class."""


def measure(
    question: Question, image_number: np.ndarray, true_boxes: np.ndarray, true_bits: np.ndarray,
    true_labels: np.ndarray, true_areas: np.ndarray, true_status: np.ndarray, boxes: np.ndarray, bits: np.ndarray,
    scores: np.ndarray, detector_scores: np.ndarray,
) -> dict[str, object]:  # fmt: skip
    """Return the record of one image (see average_precision.FIELDS).

    The arguments are columns of the image (see structures.columns). Raises OvssError unless each box has one mask and
    one row of scores.
    """
    average_precision.paired(boxes, scores, detector_scores)
    labels, _ = question.named(scores)
    true, detected = Labelled(true_labels, true_boxes, true_bits), Labelled(labels, boxes, bits)
    crowd, listed = true_status == CROWD, np.arange(len(labels))
    values = average_precision.record(true, true_areas, crowd, detected, detector_scores, listed, MOST)
    return {"image": int(image_number), **values}


class Partial(average_precision.Outcomes):
    """Predicted masks of a set of images, each matched, unmatched or ignored (see average_precision.Outcomes)."""

    metric = "instance_ap"
