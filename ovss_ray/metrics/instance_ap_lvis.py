"""Mask AP by LVIS's rules. The boxes of a detector are the prompts of the evaluated method.

LVIS does not annotate every class in every image. The rules are those of `instance_ap`, with these differences:

- In each image, only the 300 masks with the highest scores can be evaluated. All classes share this limit.
- A mask is evaluated only if its class has an instance in the image, or is verified absent (`neg_category_ids`).
- A class may be annotated incompletely in an image (`not_exhaustive_category_ids`).
  If a mask of an incompletely annotated class matches no instance, the mask is ignored.
- Masks without pixels, and instances with an annotated area of 0, are not evaluated.
- There are no crowds.

The names of the values begin with instance_ap_lvis instead of instance_ap. The values of the groups rare, common and
frequent are LVIS's APr, APc and APf. All values equal those of the lvis package 0.5.3 with iou_type "segm" for a
results file without boxes. Values are percent.

Source: Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, section 2.1.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import average_precision
from ovss_ray.structures.masks.average_precision import EVERY, FIELDS, Labelled
from ovss_ray.structures.masks.regions import Masks
from ovss_ray.structures.question import Question

on_request = True
federated = True
reads = (
    *("image_number", "true_boxes", "true_bits", "true_labels", "true_areas", "true_absent", "true_partial"),
    *("boxes", "bits", "scores", "detector_scores"),
)
schema = pa.struct([*FIELDS, ("masks", pa.int64())])
title = "Mask AP of a detector's boxes by LVIS's rules, in percent"
order = 9
headings = average_precision.headings("instance_ap_lvis", "mask AP (LVIS)")
group_headings = {"instance_ap_lvis": "mask AP (LVIS)"}
class_headings = {"instance_ap_lvis": "mask AP (LVIS)"}

MOST = 300
"""Maximum number of masks that are evaluated in an image, over all classes."""


def measure(
    question: Question, image_number: np.ndarray, true_boxes: np.ndarray, true_bits: np.ndarray,
    true_labels: np.ndarray, true_areas: np.ndarray, true_absent: np.ndarray, true_partial: np.ndarray,
    boxes: np.ndarray, bits: np.ndarray, scores: np.ndarray, detector_scores: np.ndarray,
) -> dict[str, object]:  # fmt: skip
    """Return the record of one image, with the fields average_precision.FIELDS and `masks`.

    `masks` is the number of masks with a predicted label. If the image has more than 300 such masks, `masks` is 300.
    Each argument except `question` is the image's value in the column of the same name (see structures.columns).
    Raises OvssError unless each box of the detector has one mask and one row of `scores`.
    """
    average_precision.paired(boxes, scores, detector_scores)
    labels, _ = question.named(scores)
    best = np.argsort(-detector_scores, kind="stable")
    best = best[labels[best] != NONE][:MOST]
    exists = true_areas > 0
    searched = np.isin(labels, (*true_labels[exists], *true_absent))
    filled = np.array([mask.any() for mask in Masks(boxes, bits)], bool)
    listed = np.sort(best[(searched & filled)[best]])  # of equal scores, the first of the source is the first
    true = Labelled(np.where(exists, true_labels, NONE).astype(np.uint16), true_boxes, true_bits)
    detected, crowd = Labelled(labels, boxes, bits), np.zeros(len(true_labels), bool)
    values = average_precision.record(true, true_areas, crowd, detected, detector_scores, listed, MOST)
    loose = np.where(np.isin(values["label"], true_partial), ~values["matched"] & EVERY, np.uint64(0))
    of_instances = {name: values[name][exists] for name in ("truth", "counted")}
    ignored = values["ignored"] | loose
    return {"image": int(image_number), **values, **of_instances, "ignored": ignored, "masks": len(best)}


class Partial(average_precision.Outcomes):
    """Predicted masks of a set of images. A mask is matched, unmatched or ignored (see average_precision.Outcomes)."""

    metric = "instance_ap_lvis"

    def any_mask(self, records: pa.StructArray) -> bool:
        """Return whether any image of `records` has a mask with a predicted label. The mask may be ignored."""
        return bool(pc.sum(records.field("masks")).as_py())
