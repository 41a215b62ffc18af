"""A metric of a user's own, as text: tests write it into a folder of their own."""

SOURCE = '''
"""Dice: twice the pixels that truth and prediction share, over the sum of both."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.structures.columns import IGNORE

reads = ("truth", "prediction")
schema = pa.struct([(name, pa.list_(pa.int64())) for name in ("common", "areas")])
title = "Dice, in percent"
headings = {"dice": "mean Dice"}
class_headings = {"dice": "Dice"}


def measure(question, truth, prediction):
    if (truth == IGNORE).all():
        return None
    named = np.where(truth == IGNORE, IGNORE, question.labelled(prediction))
    common = [int(((truth == label) & (named == label)).sum()) for label in range(len(question.labels))]
    areas = [int((truth == label).sum() + (named == label).sum()) for label in range(len(question.labels))]
    return {"common": common, "areas": areas}


def values(common, areas):
    with np.errstate(invalid="ignore"):
        return 200 * common / areas


def per_image(records):
    rows = [row and values(np.array(row["common"]), np.array(row["areas"])) for row in records.to_pylist()]
    return {"own_dice": np.array([np.nan if row is None else np.nanmean(row) for row in rows])}


@dataclass(frozen=True, eq=False)
class Partial:
    common: np.ndarray
    areas: np.ndarray

    @classmethod
    def of(cls, records, labels):
        rows = records.drop_null().to_pylist()
        return cls(*(np.array([row[name] for row in rows], int).reshape(-1, labels).sum(0) for name in schema.names))

    def __add__(self, other):
        return Partial(self.common + other.common, self.areas + other.areas)

    def per_label(self):
        return {"dice": values(self.common, self.areas)}

    def result(self):
        return {"dice": float(np.nanmean(self.per_label()["dice"])) if self.areas.any() else float("nan")}
'''
