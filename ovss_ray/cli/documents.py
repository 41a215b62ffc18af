"""Options of `ovss report` that write files, such as an HTML page, and the command `ovss leaderboard`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ovss_ray.reports.schema import Report
    from ovss_ray.reports.totals import Reading
    from ovss_ray.runs.folder import RunFolder

IMAGES = 101
"""Maximum number of images in the galleries of a page, by default."""
Html = Annotated[bool, typer.Option("--html", help="also write report.html into the run's folder")]
Opened = Annotated[bool, typer.Option("--open", help="also write report.html, and open it in a browser")]
GalleryImages = Annotated[
    int, typer.Option("--gallery", help="most images in the galleries of the page; 0: no photographs", min=0)
]
Csv = Annotated[str | None, typer.Option(help="also write all values to this file, a row each")]
Markdown = Annotated[str | None, typer.Option(help="also write the tables to this file, for an issue")]
Latex = Annotated[str | None, typer.Option(help="also write a booktabs table of mIoU to this file, for a paper")]
CocoRle = Annotated[
    str | None, typer.Option(help="also write the saved label maps to this file, as detectron2's JSON with COCO's RLE")
]

Pixels = Annotated[
    str | None, typer.Option(help="also write pixel counts to this folder: images.csv, and all of confusions.csv")
]


def write_tables(
    run: str,
    folder: "RunFolder",
    built: "Report",
    readings: "Mapping[str, Reading]",
    csv: str | None,
    markdown: str | None,
    latex: str | None,
    coco_rle: str | None,
    pixels: str | None,
) -> None:
    """Write the report in each format whose file name is set. Print the names of these files and of report.json.

    Raises OvssError if a file cannot be written. If `coco_rle` is set, also raises OvssError if the label maps of the
    run cannot be exported (see exports/coco_rle.py).
    """
    from ovss_ray.reports.documents.exports import coco_rle as predictions
    from ovss_ray.reports.documents.exports import leaderboard, tables
    from ovss_ray.reports.documents.exports import pixels as counts

    print(f"report: {folder.file('report.json')}")
    if csv:
        _write(csv, tables.csv(built))
    if markdown:
        _write(markdown, tables.markdown(built))
    if latex:
        _write(latex, tables.latex(leaderboard.short(run.rstrip("/"), [run]), built))
    if coco_rle:
        print(predictions.write(folder, coco_rle))
    for sentence in counts.write(pixels, readings) if pixels else ():
        print(sentence)


def write_page(
    folder: "RunFolder", built: "Report", readings: "Mapping[str, Reading]", html: bool, opened: bool, images: int
) -> None:
    """Write report.html if `html` or `opened` is True. If `opened` is True, also open report.html in a browser.

    Raises OvssError if report.html cannot be written. If `opened` is True, also raises OvssError if the run's folder is
    not on this machine.
    """
    if not html and not opened:
        return
    from ovss_ray.reports.documents import run_page

    if opened:
        run_page.check_local(folder.uri)
    uri = run_page.write(folder, built, readings, images)
    print(f"page: {uri}")
    if opened:
        import webbrowser
        from pathlib import Path

        if not webbrowser.open(uri if "://" in uri else Path(uri).absolute().as_uri()):
            print("No browser was found on this machine: copy the page, and open the copy")


def leaderboard(
    runs: Annotated[list[str], typer.Argument(help="the folders of runs")],
    benchmark: Annotated[str | None, typer.Option(help="only this benchmark of the runs")] = None,
    markdown: Markdown = None,
    latex: Latex = None,
    html: Annotated[str | None, typer.Option(help="also write a page to this file")] = None,
) -> None:
    """Rank runs among the published figures of their benchmarks. State the mIoU convention of each figure."""
    from ovss_ray.errors import UnknownName
    from ovss_ray.reports import terminal
    from ovss_ray.reports.documents import rendering
    from ovss_ray.reports.documents.exports import leaderboard as boards
    from ovss_ray.reports.schema import Report

    reports = {boards.short(run.rstrip("/"), [of.rstrip("/") for of in runs]): Report.load(run) for run in runs}
    names = boards.benchmarks(reports)
    if benchmark is not None and benchmark not in names:
        raise UnknownName("--benchmark value", benchmark, names)
    listed = {name: boards.rows(name, reports) for name in names if benchmark in (None, name)}
    for name, rows in listed.items():
        terminal.console().print(_table(name, boards.HEADINGS, boards.cells(rows), boards.CONVENTIONS))
    if markdown:
        _write(markdown, "\n".join(boards.markdown(name, rows) for name, rows in listed.items()))
    if latex:
        _write(latex, boards.latex(reports, list(listed)))
    if html:
        views = [(name, boards.cells(rows)) for name, rows in listed.items()]
        words = {"title": "Leaderboard", "headings": boards.HEADINGS, "conventions": boards.CONVENTIONS}
        _write(html, rendering.page("leaderboard.html.j2", boards=views, data={"runs": [], "benchmarks": []}, **words))


def _table(name: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], caption: str) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(name), title_justify="left", caption=escape(caption), caption_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading == "mIoU" else "left")
    for row in rows:
        table.add_row(*map(escape, row), style="bold" if row[0] else "")
    return table


def _write(uri: str, text: str) -> None:
    from ovss_ray.io import files

    files.write(files.absolute(uri), text.encode())
    print(f"written: {uri}")
