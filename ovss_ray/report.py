"""The report of a run: a pure function of its records and manifest. As data, and as a table."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray import manifest as manifests
from ovss_ray import records
from ovss_ray.errors import OvssError
from ovss_ray.metrics import proposal_recall
from ovss_ray.metrics.confusion import Partial
from ovss_ray.published import comparison
from ovss_ray.run_folder import RunFolder, digest


@dataclass(frozen=True)
class Total:
    """All that records say of a set of images; adding two of them is exact, associative and commutative."""

    confusion: Partial
    proposals: proposal_recall.Partial

    @classmethod
    def of(cls, part: pa.Table, labels: int) -> "Total":
        """Add up records; those of before proposals were measured have no such column."""
        proposed = "proposal_recall" in part.column_names
        proposals = proposal_recall.Partial.of(part["proposal_recall"]) if proposed else proposal_recall.Partial()
        return cls(Partial.of(part["confusion"], labels), proposals)

    def __add__(self, other: "Total") -> "Total":
        return Total(self.confusion + other.confusion, self.proposals + other.proposals)


Fold = Callable[[Sequence[tuple[str, np.ndarray]], Callable[[pa.Table], Total]], Total | None]
"""Adds the partials of part files: reduce.fold on a cluster, `fold` below in this process."""

SHOWN = ("miou", "miou_classic", "fwiou", "macc", "pacc", "image_miou")
"""The metrics of the table, in its order."""


def fold(parts: Sequence[tuple[str, np.ndarray]], of: Callable[[pa.Table], Total]) -> Total | None:
    """Add the partials of all parts here."""
    total: Total | None = None
    for uri, rows in parts:
        one = of(records.read_part(uri).take(rows))
        total = one if total is None else total + one
    return total


def build(folder: RunFolder, fold: Fold = fold) -> dict[str, Any]:
    """Make the report from what is in the folder, and write it there as report.json.

    Values are percent, float64. Nothing is `final` unless every image of the manifest has a good record.
    """
    config, environment = folder.config(), folder.json("environment.json")
    measured = {name: _benchmark(folder, name, fold) for name in config.benchmarks}
    weights = environment.get("weights", [])
    for name, one in measured.items():
        one["published"] = comparison.beside(name, one, config.stages(), weights)
    made = {
        "benchmarks": measured,
        "run": {
            "digest": digest(folder.json("identity.json")),
            "config": config.model_dump(mode="json", exclude_defaults=True),
            "environment": environment,
            "seconds": {name: seconds(folder, name) for name in config.benchmarks},
            "history": folder.history(),
        },
    }
    folder.save_json("report.json", made)
    return made


def _benchmark(folder: RunFolder, name: str, fold: Fold) -> dict[str, Any]:
    card = folder.json(folder.card(name))
    if not card:
        raise OvssError(f"{folder.uri}: this run was cut off before it began with {name}. Give its command again")
    listed = _manifest(folder, name)
    settled = records.settle(folder.records(name), listed)
    errors = list(_errors(settled.parts))
    total = fold(settled.parts, partial(Total.of, labels=len(card["labels"])))
    counts = Partial.zero(len(card["labels"])) if total is None else total.confusion
    values = counts.result() | (total.proposals.result() if total else {})
    if not counts.truth_pixels.any():  # fwIoU would be 0, as detectron2 has it
        values |= dict.fromkeys(counts.result(), float("nan"))
    scored = sum(len(rows) for _, rows in settled.parts) - len(errors)
    found = files_of(settled, card)
    return {
        "images": {"expected": len(listed), "scored": scored, "failed": len(errors)},
        "files": found,
        "final": scored == len(listed) and not incomplete(found),
        "selection": card["selection"],
        "metrics": {metric: _finite(value) for metric, value in values.items()},
        "groups": {group: _group(counts, labels) for group, labels in card.get("groups", {}).items()},
        "classes": _classes(counts, card["labels"]),
        "errors": errors,
    }


def files_of(settled: records.Settled, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a benchmark's files that its numbers do not show.

    `changed`: images that were scored with other files than those now. `undigested`: records of an earlier version,
    which do not say what files they are of. `left_out`: files that no image is made of; `unpaired` says whether that
    makes a run incomplete.
    """
    return {
        "changed": settled.changed,
        "undigested": settled.undigested,
        "left_out": card.get("left_out", []),
        "unpaired": card.get("unpaired", "error"),
    }


def incomplete(files: Mapping[str, Any]) -> int:
    """How many files are left out of a run although nobody has said that they should be."""
    return sum(some["number"] for some in files["left_out"]) if files["unpaired"] == "error" else 0


def lacking(benchmarks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say what the numbers of these benchmarks do not cover, if there is anything, and what to do."""
    if failed := sum(one["images"]["expected"] - one["images"]["scored"] for one in benchmarks):
        yield f"{failed} images have no result. Mend them and give the same command again"
    if alone := sum(incomplete(one["files"]) for one in benchmarks):
        yield f"{alone} files are part of no image (see above). Mend their names, or write `unpaired: skip` in the YAML"


def _manifest(folder: RunFolder, name: str) -> pa.Table:
    """The ids of a manifest, and the digests of files that have changed if it has any."""
    return manifests.load(folder.manifest(name), ["image_id", *records.DIGESTS])


def _group(total: Partial, labels: Sequence[int]) -> dict[str, Any]:
    """mIoU over some of the labels, as detectron2 counts: those in the truth, among predictions of all labels.

    `pooled_iou` is their intersections over their unions, both summed.
    """
    iou = total.iou[labels][total.truth_pixels[labels] > 0]
    miou = _finite(iou.mean()) if len(iou) else None
    return {"labels": len(labels), "in_truth": len(iou), "miou": miou, "pooled_iou": _finite(total.pooled_iou(labels))}


def _classes(total: Partial, names: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(names, total.iou, total.acc, total.truth_pixels, total.prediction_pixels, strict=True)
    return [
        {
            "name": name,
            "iou": _finite(iou),
            "acc": _finite(acc),
            "truth_pixels": int(truth),
            "prediction_pixels": int(called),
        }
        for name, iou, acc, truth, called in columns
    ]


def _finite(value: float) -> float | None:
    """JSON knows no NaN: what could not be measured is null."""
    return None if np.isnan(value) else float(value)


def _errors(parts: Sequence[tuple[str, np.ndarray]]) -> Iterator[dict[str, str]]:
    for uri, rows in parts:
        part = records.read_part(uri, ["image_id", "error"]).take(rows)
        yield from part.filter(pc.not_equal(part["error"], "")).to_pylist()


def seconds(folder: RunFolder, name: str) -> dict[str, float]:
    """Mean wall seconds per scored image in each stage."""
    spent: Counter[str] = Counter()
    images = 0
    for uri, rows in records.chosen(folder.records(name), _manifest(folder, name)):
        part = records.read_part(uri, ["seconds", "error"]).take(rows)
        for row in part.filter(pc.equal(part["error"], ""))["seconds"].to_pylist():
            spent.update(dict(row))
            images += 1
    return {stage: total / images for stage, total in spent.items()}


def images(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    """Every image with its own mIoU in percent (None if nothing could be measured), worst first, failures on top."""
    labels = len(folder.json(folder.card(name))["labels"])
    rows = []
    for part in records.read(folder.records(name), _manifest(folder, name)):
        for row in range(len(part)):
            one = part.slice(row, 1)
            miou = Partial.of(one["confusion"], labels).image_miou
            rows.append(
                {
                    "image_id": one["image_id"][0].as_py(),
                    "miou": _finite(miou),
                    "error": one["error"][0].as_py(),
                }
            )
    return sorted(rows, key=lambda row: (-1.0 if row["miou"] is None else row["miou"], row["image_id"]))


def fake(report: dict[str, Any]) -> list[str]:
    """The weights of this run that were made up, by file name."""
    return [one["file"] for one in report["run"]["environment"].get("weights", []) if one["fake"]]
