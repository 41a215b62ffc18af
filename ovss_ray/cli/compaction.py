"""The option `--compact` of `ovss report`, which replaces the records of single images by sums over many images."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ovss_ray.reports.totals import Reading
    from ovss_ray.runs.folder import RunFolder

Compact = Annotated[
    bool, typer.Option("--compact", help="afterwards, replace the records of this finished run by sums")
]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask before --compact")]


def offer(folder: "RunFolder", readings: "Mapping[str, Reading]", compact: bool, yes: bool) -> None:
    """Replace the records of single images by sums over many images, if `compact` is True and the user confirms.

    If `yes` is True, no confirmation is needed. If `yes` is False and standard input is not a terminal, raises
    OvssError. Also raises OvssError if the run cannot become compact (see api.compaction.pending).
    """
    if not compact:
        return
    from ovss_ray.api import compaction
    from ovss_ray.errors import OvssError

    left = compaction.pending(readings, folder)
    if not left:
        print("compact: nothing to do, this run is compact")
        return
    print(f"--compact replaces the records of {sum(left.values())} images by sums. This cannot be undone. It deletes:")
    for content in compaction.LOST:
        print(f"  {content}")
    print("Kept are all other numbers, ids and digests of the images, label maps, and pages and tables written before.")
    if not yes and not sys.stdin.isatty():
        raise OvssError("--compact asks for confirmation, but standard input is not a terminal. Add --yes to confirm")
    if not yes and not typer.confirm("Replace the records?"):
        print("Nothing was changed")
        return
    compaction.run(folder, print)
