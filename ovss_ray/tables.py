"""Reports as tables on a terminal."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovss_ray import report as reports


def console() -> Console:
    """Standard output; wide enough for every table where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def show(report: dict[str, Any], console: Console, classes: bool = False, title: str = "") -> None:
    """Print the numbers of a run with their coverage, and what went wrong."""
    console.print(_numbers(report, title))
    for name, one in report["benchmarks"].items():
        for part in _beside(name, one):
            console.print(part)
        if classes:
            console.print(_classes(name, one))
        if one["errors"]:
            console.print(_errors(name, one))
    for command in report["run"]["history"][-1:]:
        if command.get("deaths"):
            console.print(
                f"{command['deaths']} workers died, for which {command['begun_again']} images were begun again"
            )
    for file in reports.fake(report):
        console.print(f"[bold red]FAKE WEIGHTS: {escape(file)} holds made-up values; these numbers mean nothing.[/]")


def _beside(name: str, one: dict[str, Any]) -> Iterator[str | Table]:
    """Yield the lines and tables below the table of all benchmarks that are about one of them."""
    if one["groups"]:
        yield _groups(name, one["groups"])
    if one["published"]:
        yield _published(name, one["published"])
    if "proposal_best_iou" in one["metrics"]:
        yield _proposals(name, one["metrics"])
    yield from _files(name, one["files"])


def _files(name: str, files: dict[str, Any]) -> Iterator[str]:
    """Sentences on the files of a benchmark that a number cannot show."""
    if number := files["changed"]:
        yield (
            f"{escape(name)}: the files of {number} images have changed since they were first scored; only records of "
            "the files as they are now count"
        )
    if number := files["undigested"]:
        yield (
            f"{escape(name)}: {number} records are of an earlier version and hold no digests: whether their "
            "photographs and label files have changed since is not known"
        )
    for some in files["left_out"]:
        skipped = " (unpaired: skip)" if files["unpaired"] == "skip" else ""
        what = f"{some['number']} {some['what']}, such as {some['example']}"
        yield f"[yellow]{escape(name)}: {escape(what)}: in no number{skipped}[/]"


def side_by_side(compared: dict[str, dict[str, Any]]) -> Table:
    """The mIoU of several runs, one column each; the images are named with each where they are not the same."""
    table = Table(title="mIoU in percent, side by side", title_justify="left")
    table.add_column("benchmark")
    for run in compared:
        table.add_column(escape(run), justify="right")
    for name in dict.fromkeys(name for one in compared.values() for name in one["benchmarks"]):
        found = [one["benchmarks"].get(name) for one in compared.values()]
        asked = {_asked(one["selection"]) for one in found if one}
        common = asked.pop() if len(asked) == 1 else ""
        table.add_row(escape(name) + common, *(_cell(one, "" if common else " of") for one in found))
    return table


def _cell(one: dict[str, Any] | None, of: str) -> str:
    if one is None:
        return "–"
    images = f"{one['images']['scored']}/{one['images']['expected']}"
    which = of and of + _asked(one["selection"])
    return f"{_percent(one['metrics']['miou'])} ({images}{which})" + ("" if one["final"] else " [red]not final[/]")


def _numbers(report: dict[str, Any], title: str) -> Table:
    table = Table(title=escape(f"{title}: mIoU and its relatives, in percent".removeprefix(": ")), title_justify="left")
    table.add_column("benchmark")
    table.add_column("images", justify="right")
    for metric in reports.SHOWN:
        table.add_column(metric, justify="right")
    for name, one in report["benchmarks"].items():
        images = one["images"]
        covered = f"{images['scored']}/{images['expected']}"
        state = "" if one["final"] else " [red]not final[/]"
        values = (_percent(one["metrics"][metric]) for metric in reports.SHOWN)
        table.add_row(escape(name) + _asked(one["selection"]), covered + state, *values)
    return table


def _groups(name: str, groups: dict[str, dict[str, Any]]) -> str:
    apart = (f"{escape(group)} {_percent(one['miou'])} ({one['in_truth']} classes)" for group, one in groups.items())
    return f"{escape(name)}: mIoU of {', '.join(apart)}{_foreground_background(groups)}"


def _foreground_background(groups: dict[str, dict[str, Any]]) -> str:
    """FB-IoU, where labels are foreground and background, and both are in the truth."""
    both = [one["pooled_iou"] for one in groups.values()]
    if groups.keys() != {"foreground", "background"} or None in both:
        return ""
    return f"; FB-IoU {_percent(sum(both) / 2)}"


def _published(name: str, published: dict[str, Any]) -> Table:
    """What others say that this method scores, the measured value of the same convention, and the difference."""
    method = f"{published['method']}, {published['backbone']}"
    table = Table(title=escape(f"{name}: mIoU as published for {method}"), title_justify="left", caption_justify="left")
    for title in ("published", "measured", "difference"):
        table.add_column(title, justify="right")
    table.add_column("convention")
    table.add_column("source")
    for one in published["figures"]:
        difference = "–" if one["difference"] is None else f"{one['difference']:+.2f}"
        numbers = (str(one["miou"]), _percent(one["measured"]), difference)
        table.add_row(*numbers, escape(one["convention"]), escape(f"{one['kind']}: {one['where']}"))
    reasons = "; ".join(published["not_comparable"])
    table.caption = f"[yellow]not comparable: {escape(reasons)}[/]" if reasons else escape(published["checkpoint"])
    return table


def _proposals(name: str, metrics: dict[str, float]) -> str:
    best, half, three_quarters = (metrics[f"proposal_{key}"] for key in ("best_iou", "recall_50", "recall_75"))
    recall = f"recall {half:.2f} at an IoU of 0.5, {three_quarters:.2f} at 0.75"
    return f"{escape(name)}: proposed regions fit the true ones with a mean best IoU of {best:.2f}; {recall}"


def _asked(selection: dict[str, Any]) -> str:
    """Which images: the split, and whether only some of it was asked for."""
    only = [f"{selection['ids']['count']} ids"] if selection["ids"] else []
    only += [f"first {selection['limit']}"] if selection["limit"] else []
    return f" {escape(selection['split'])}" + (f" [yellow]({', '.join(only)} only)[/]" if only else "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _classes(name: str, one: dict[str, Any]) -> Table:
    table = Table(title=f"{escape(name)}: classes", title_justify="left")
    table.add_column("class")
    for title in ("IoU", "accuracy", "truth pixels", "predicted pixels"):
        table.add_column(title, justify="right")
    for row in one["classes"]:
        pixels = (f"{row[key]:,}" for key in ("truth_pixels", "prediction_pixels"))
        table.add_row(escape(row["name"]), _percent(row["iou"]), _percent(row["acc"]), *pixels)
    return table


def _errors(name: str, one: dict[str, Any]) -> Table:
    """Failed images by the stage that failed, with an example of each kind."""
    kinds: Counter[str] = Counter(error["error"].partition(":")[0] for error in one["errors"])
    table = Table(title=f"{escape(name)}: {one['images']['failed']} images failed", title_justify="left", style="red")
    for title in ("in stage", "images", "for example"):
        table.add_column(title)
    for kind, count in kinds.most_common():
        example = next(error for error in one["errors"] if error["error"].startswith(kind))
        table.add_row(escape(kind), str(count), escape(f"{example['image_id']}: {example['error']}"))
    return table


def show_images(rows: list[dict[str, Any]], console: Console, most: int) -> None:
    """Print the images with the lowest mIoU of their own."""
    table = Table(
        "image", "mIoU", "error", title=f"the {min(most, len(rows))} worst of {len(rows)} images", title_justify="left"
    )
    for row in rows[:most]:
        table.add_row(escape(row["image_id"]), _percent(row["miou"]), escape(row["error"]))
    console.print(table)
