"""Simulation of the bootstrap: coverage of the 95 % intervals, and size of the paired test.

Data sets are drawn from a made-up population, whose true values are known (see populations.py). There are two targets.
One is the mean of the reported value over many data sets of the same size, which is what the intervals are for. The
other is the true value of the population; for mIoU, over the classes that the data set contains.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from ovss_ray.metrics.confusion import Resampled
from ovss_ray.reports import intervals, paired
from ovss_ray.structures.class_sums import ClassSums
from perf import populations
from perf.populations import Population
from perf.timing import titled

KEYS = ("miou", "miou_classic", "fwiou", "macc", "pacc", "image_miou")
LIMITS = (2, 5, 10, 20, 50, 100)
"""Limits of the numbers of images per class, by which the intervals of classes are sorted."""
LEVEL = 0.05
"""Nominal level of the paired test."""


def measure(images: list[int], sets: int, tests: int, seed: int = 1) -> None:
    """Print the tables for data sets of each number of images; `sets` and `tests` are numbers of simulations."""
    console = Console(width=160)
    both = populations.pair(seed)
    for number in images:
        console.print(*_coverage(both[0], number, sets, seed))
        console.print(_size(both, number, tests, seed))


def _coverage(population: Population, images: int, sets: int, seed: int) -> tuple[Table, Table]:
    """Return the tables of the coverage of means and of the IoU of classes."""
    whole = population.cells.whole()
    true, true_iou = _means(whole, whole), whole.iou[0]
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    classes: dict[int, list[bool]] = defaultdict(list)
    generator = np.random.default_rng(seed)
    for _ in range(sets):
        cells = population.sample(generator.integers(0, populations.IMAGES, images))
        of_all = cells.whole()
        resampled = Resampled(cells.resampled(), of_all)
        values, iou = resampled.result(), resampled.per_label()["iou"]
        points, goals = _means(of_all, of_all), true | _limited(whole, of_all)
        for key in KEYS:
            ends = intervals.shifted(values[key], points[key]) or (np.nan, np.nan)
            rows[key].append((points[key], goals[key], *ends, *np.quantile(values[key], [0.025, 0.975])))
        seen = cells.photographs_with()
        for c in np.flatnonzero(seen >= LIMITS[0]):
            low, high = intervals.centred(iou[:, c], of_all.iou[0, c]) or (np.nan, np.nan)
            classes[_bucket(seen[c])].append(low <= true_iou[c] <= high)
    return _means_table(rows, images, sets), _class_table(classes, "Coverage of the true IoU of a class", "coverage, %")


def _means_table(rows: Mapping[str, list[tuple[float, ...]]], images: int, sets: int) -> Table:
    """Return the table of means. A row holds value, target, and the ends of the centred and the plain interval."""
    table = titled(
        f"Coverage in percent of {sets} intervals for sets of {images} images",
        *("value", "mean", "SD", "mean width", "of the mean over sets", "of the population", "uncentred: population"),
    )
    for key, content in rows.items():
        value, goal, low, high, plain_low, plain_high = np.array(content).T
        mean = value.mean()
        covered = (
            (low <= mean) & (mean <= high),
            (low <= goal) & (goal <= high),
            (plain_low <= goal) & (goal <= plain_high),
        )
        numbers = (mean, value.std(), (high - low).mean())
        table.add_row(key, *(f"{x:.2f}" for x in numbers), *(f"{100 * of.mean():.1f}" for of in covered))
    return table


def _class_table(classes: Mapping[int, list[bool]], title: str, heading: str) -> Table:
    table = titled(title, "images with the class", "number", heading)
    for place, of in sorted(classes.items()):
        upper = f"–{LIMITS[place] - 1}" if place < len(LIMITS) else " or more"
        table.add_row(f"{LIMITS[place - 1]}{upper}", str(len(of)), f"{100 * np.mean(of):.1f}")
    return table


def _bucket(number: int) -> int:
    return int(np.searchsorted(LIMITS, number, "right"))


def _means(sums: ClassSums, of_all: ClassSums) -> dict[str, float]:
    return {key: float(values[0]) for key, values in Resampled(sums, of_all).result().items()}


def _limited(whole: ClassSums, of_set: ClassSums) -> dict[str, float]:
    """Return the true means over the classes that a data set contains."""
    seen, named = of_set.truth[0] > 0, (of_set.truth + of_set.prediction)[0] > 0
    iou = whole.iou[0][seen]
    return {"miou": iou.mean(), "miou_classic": iou.sum() / named.sum(), "macc": whole.acc[0][seen].mean()}


def _size(both: tuple[Population, Population], images: int, tests: int, seed: int) -> Table:
    """Return the table of the paired test's size: how often two equally good methods differ at the 5 % level.

    The methods are exchanged at random in each image, so that neither is better.
    """
    generator = np.random.default_rng(seed)
    rejected, families, points, smallest = [], [], [], []
    classes: dict[int, list[bool]] = defaultdict(list)
    for _ in range(tests):
        drawn = generator.integers(0, populations.IMAGES, images)
        pair = populations.swapped(*(of.sample(drawn) for of in both), generator.random(images) < 0.5)
        runs = [(Resampled(of.resampled(), of.whole()), Resampled(of.whole(), of.whole())) for of in pair]
        (before, whole_before), (after, whole_after) = runs
        point = float(whole_after.result()["miou"][0] - whole_before.result()["miou"][0])
        test = paired.tested(after.result()["miou"] - before.result()["miou"], point, images)
        assert test is not None
        rejected.append(test.p < LEVEL)
        points.append(point)
        smallest.append(test.smallest)
        seen = pair[0].photographs_with()
        families.append(any(of.p < LEVEL for of in paired.by_class(*runs, seen).values()))
        iou = after.per_label()["iou"] - before.per_label()["iou"]
        value = whole_after.sums.iou[0] - whole_before.sums.iou[0]
        for c in np.flatnonzero(seen >= LIMITS[0]):
            of_class = paired.tested(iou[:, c], float(value[c]), int(seen[c]))
            classes[_bucket(seen[c])].append(of_class is not None and of_class.p < LEVEL)
    title = f"Equal methods, {tests} pairs of runs on {images} images: share of tests with p below 5 %"
    table = _class_table(classes, title, "p < 5 %, %")
    table.add_row("mIoU", str(tests), f"{100 * np.mean(rejected):.1f}")
    table.add_row("any class, by Holm", str(tests), f"{100 * np.mean(families):.1f}")
    table.caption = (
        f"SD of the difference {np.std(points):.3f}, mean smallest difference {np.mean(smallest):.3f} points"
    )
    return table
