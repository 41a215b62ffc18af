"""The tables of `ovss list`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ovss_ray import metrics, registry
from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import zoo
from ovss_ray.reports import published


def tables(what: str | None, benchmark: str | None, shipped: Mapping[str, Path]) -> list[Table]:
    """Return the table `what` in a list. If `what` is None, return every table except "published".

    If `benchmark` is set, the table "published" has only the figures of this benchmark. If there are figures of
    vocabulary-free methods, they are in a second table after "published".

    Raises UnknownName for an unknown table or benchmark. Raises OvssError if `benchmark` is set and `what` is not
    "published".
    """
    makers: dict[str, Callable[[], Table]] = {
        "benchmarks": benchmarks,
        "stages": stages,
        "metrics": measured,
        "configs": partial(configs, shipped),
        "weights": weights,
        "published": partial(figures, benchmark),
    }
    if what is not None and what not in makers:
        raise UnknownName("list", what, makers)
    if benchmark is not None and what != "published":
        raise OvssError(
            "--benchmark works with the published figures only. To list them, run "
            f"`ovss list published --benchmark {benchmark}`"
        )
    names = [what] if what is not None else [name for name in makers if name != "published"]
    listed = [makers[name]() for name in names]
    # figures of vocabulary-free methods have other columns, so they are in a second table
    if what == "published" and published.vocabulary_free(benchmark):
        listed.append(free_figures(benchmark))
    return listed


def figures(benchmark: str | None) -> Table:
    """Return a table of the published figures of a benchmark. If `benchmark` is None, return all published figures.

    The figures of a benchmark are sorted: the best mIoU is first, and figures of SG-IoU are last. Raises UnknownName
    for an unknown benchmark.
    """
    if benchmark is not None:
        catalog.load(benchmark)
    rows = published.figures() if benchmark is None else published.of(benchmark)
    of = f" for {escape(benchmark)}" if benchmark else ""
    table = Table("method", "backbone", "benchmark", title=f"Published mIoU{of}: {len(rows)}", title_justify="left")
    table.add_column("mIoU", justify="right")
    table.add_column("convention")
    table.add_column("source")
    for row in rows:
        source = f"{row.kind}: {row.quoted}"
        words = (row.method, row.backbone, row.benchmark, str(row.miou), row.convention, source)
        table.add_row(*map(escape, words))
    table.caption = (
        "miou, miou_classic: as in our reports; either: all classes occur, so both are equal; unknown: not stated; "
        "sg_miou_classic: the mean SG-IoU instead of the mIoU; fold_miou, fold_miou_hsnet: over a fold's classes; "
        "instance_iou, instance_accuracy: of prompted instances"
    )
    table.caption_justify = "left"
    return table


def free_figures(benchmark: str | None) -> Table:
    """Return a table of published figures of vocabulary-free methods, each with its evaluation setting."""
    rows = published.vocabulary_free(benchmark)
    of = f" for {escape(benchmark)}" if benchmark else ""
    title = f"Published without given class names{of}: {len(rows)}"
    table = Table("method", "benchmark", "metric", title=title, title_justify="left")
    table.add_column("value", justify="right")
    for name in ("setting", "mapping of words", "source"):
        table.add_column(name)
    for row in rows:
        source = f"{row.kind}: {row.where}"
        words = (row.method, row.benchmark, row.metric, str(row.value), row.setting, row.mapping, source)
        table.add_row(*map(escape, words))
    table.caption = (
        "comparable only with the same metric, setting and mapping, and never with the mIoU above; note: notes of "
        "others on the paper, not checked against it"
    )
    table.caption_justify = "left"
    return table


def benchmarks() -> Table:
    """Return a table of all benchmarks with their numbers of images and classes, and their licences."""
    table = Table(
        "benchmark", "title", "classes", "images per split", "licence", title="Benchmarks", title_justify="left"
    )
    for name in _named():
        benchmark = catalog.load(name)
        counts = ", ".join(f"{split} {count:,}" for split, count in benchmark.counts.items())
        classes = str(len(benchmark.vocabulary))
        table.add_row(name, escape(benchmark.title), classes, counts, escape(benchmark.licence))
    table.add_row("folder:FILE.yaml", "your own images, labels and class names", "", "", "yours")
    return table


def _named() -> list[str]:
    """Return the names of all benchmarks, except benchmarks that the user describes in a file (folder:FILE.yaml)."""
    return [name for name in catalog.known() if not name.startswith("folder:")]


def stages() -> Table:
    """Return a table of all stages: the columns that they read and write, and their options."""
    table = Table("stage", "reads", "writes", "options", title="Stages", title_justify="left")
    for name in registry.known("ovss_ray.actors"):
        kind = registry.find("ovss_ray.actors", name, "Stage")
        table.add_row(escape(name), " ".join(kind.reads), " ".join(kind.writes), " ".join(kind.Config.model_fields))
    return table


def measured() -> Table:
    """Return a table of all built-in metrics: the columns that they read, and the names of their values."""
    table = Table("metric", "reads", "values", "what it is", title="Metrics", title_justify="left")
    for metric in metrics.built_in():
        entry = f"; metrics: [{metric.name}]" if metric.on_request else ""
        table.add_row(
            metric.name, escape(" ".join(metric.reads) + entry), " ".join(metric.headings), _first_line(metric)
        )
    for computed in metrics.derived():
        origin = "; ".join(filter(None, [f"records of {computed.derives}", computed.option]))
        table.add_row(computed.name, origin, " ".join(computed.headings), _first_line(computed))
    table.add_row("my_package.my_metric", "", "", "your own: name it under `metrics:` of a config")
    return table


def _first_line(metric: metrics.Table) -> str:
    """Return the first line of a metric's docstring, escaped for rich's markup."""
    return escape((registry.find(metrics.PACKAGE, metric.name, "__doc__") or "").partition("\n")[0])


def configs(shipped: Mapping[str, Path]) -> Table:
    """Return a table of the configs that come with the project."""
    table = Table("config", "file", title="Configs", title_justify="left")
    for name, path in shipped.items():
        table.add_row(escape(name), escape(str(path)))
    return table


def weights() -> Table:
    """Return a table of all known checkpoints, with the paths of those that are on this machine."""
    table = Table("weights", "bytes", "licence", "here", title="Weights", title_justify="left")
    for name, checkpoint in zoo.known().items():
        path = zoo.lookup(name)
        size = f"{checkpoint.bytes:,}" if checkpoint.bytes else "not published"
        here = escape(str(path)) if path else _how_to_get(name, checkpoint)
        table.add_row(name, size, escape(checkpoint.licence), here)
    return table


def _how_to_get(name: str, checkpoint: zoo.Weights) -> str:
    """Return an instruction, as text, for getting a checkpoint that is not on this machine."""
    if checkpoint.manual:
        return f"by hand from {checkpoint.page}" if checkpoint.file else "not published"
    return f"ovss weights fetch {name}"
