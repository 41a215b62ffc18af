"""Images of a user's data set in a table: Parquet files, or a folder that Hugging Face's `save_to_disk` wrote."""

from collections.abc import Iterator, Sequence

from ovss_ray.benchmarks.listing import Item, Items, gathered
from ovss_ray.datasets.folder.description import Description
from ovss_ray.datasets.folder.patterns import Search
from ovss_ray.errors import OvssError
from ovss_ray.io.files import cells
from ovss_ray.io.files.cells import Cell


def items(described: Description, bases: Sequence[str]) -> Items:
    """List the rows of the tables below the first folder of `bases` that contains tables.

    Raises OvssError if no folder contains tables, and for invalid columns or image ids.
    """
    patterns = described.patterns("table")
    for base in bases:
        matches = Search(base, patterns)
        tables = sorted({match.uri for match in matches if match.exact and match.ending in cells.ENDINGS})
        if tables:
            return gathered(_rows(described, tables))
    listed = patterns[0] if len(patterns) == 1 else list(patterns)
    raise OvssError(
        f"no file fits `table: {listed}`. Expected files that end in {' or '.join(cells.ENDINGS)}, or a folder of "
        f"them. Searched below {' and '.join(map(repr, bases))}"
    )


def _rows(described: Description, tables: Sequence[str]) -> Iterator[Item]:
    columns = {key: described.patterns(key)[0] for key in ("images", "labels")}
    number = 0
    for table in tables:
        cells.checked(table, columns, described.ids)
        for group, row, value in cells.rows(table, described.ids):
            image, truth = (Cell(table, group, row, column).uri for column in columns.values())
            yield Item(_id(table, value) if value is not None else f"{number:09}", image, truth)
            number += 1


def _id(table: str, value: str) -> str:
    """Return `value`, an image id. Raises OvssError if `value` cannot be the path of a file."""
    steps = value.split("/")
    if not value.isprintable() or "\\" in value or {"", ".", ".."} & set(steps):
        raise OvssError(
            f"{table}: ids: the column has the value {value!r}, which cannot be the name of a file. Choose another "
            "column, or remove `ids`"
        )
    return value
