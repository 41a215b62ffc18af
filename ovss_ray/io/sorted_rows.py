"""Rows in a temporary file. Any number of rows can be sorted, counted and compared in constant memory.

SQLite stores the rows, and deletes the temporary files when the rows are no longer used.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ovss_ray.errors import OvssError

T = TypeVar("T")


class Rows(Generic[T]):
    """Table of strings and numbers. Iteration yields an object for each row of the table.

    - `make`: function that returns the object for a row; its arguments are the row's values
    - `columns`: names of the columns, such as "a, b"
    - `rows`: rows to insert at once, each with a value per column; the method `add` appends further rows
    - `order`: order of iteration, such as "a, b DESC"; by default, the order of insertion

    Raises OvssError if there is no space for temporary files.
    """

    def __init__(
        self, make: Callable[..., T], columns: str, rows: Iterable[Sequence[Any]], order: str = "rowid"
    ) -> None:
        self._make, self._order = make, order
        with _plain_errors():
            # "" is a temporary file of SQLite. After a crash it is lost anyway, so it needs no journal. The thread that
            # uses it last may be another thread.
            self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = OFF")
            self._base.execute("PRAGMA cache_size = -512")  # KiB in memory
            self._base.execute(f"CREATE TABLE rows ({columns})")
            self._base.execute("BEGIN")
            marks = ", ".join("?" for _ in columns.split(","))
            self._insert = f"INSERT INTO rows VALUES ({marks})"
            self._base.executemany(self._insert, rows)
            self._base.execute("COMMIT")

    def __len__(self) -> int:
        (number,) = self._base.execute("SELECT count(*) FROM rows").fetchone()
        return int(number)

    def add(self, *values: Any) -> None:
        """Append a row."""
        with _plain_errors():
            self._base.execute(self._insert, values)

    def __iter__(self) -> Iterator[T]:
        return self.in_order(self._order)

    def in_order(self, columns: str) -> Iterator[T]:
        """Yield all rows sorted by columns, such as "a, b DESC". Strings are sorted by code point, as in Python."""
        return (self._make(*row) for row in self._ask(f"SELECT * FROM rows ORDER BY {columns}"))

    def counted(self, column: str) -> Iterator[tuple[Any, int]]:
        """Yield each distinct value of a column, sorted, and the number of rows with this value."""
        return self._ask(f"SELECT {column}, count(*) FROM rows GROUP BY {column} ORDER BY {column}")

    def repeats(self, columns: str, where: str = "true") -> bool:
        """Return whether two rows have equal values in `columns`. Only rows that satisfy `where` (SQL) are compared."""
        return any(self._ask(f"SELECT 1 FROM rows WHERE {where} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"))

    def _ask(self, question: str) -> Iterator[Any]:
        with _plain_errors():
            yield from self._base.execute(question)


def row(*values: Any) -> tuple[Any, ...]:
    """Return the arguments as a tuple. An object of the class Rows with the argument `make=row` yields tuples."""
    return values


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as failure:
        raise OvssError(
            f"cannot use a temporary file: {failure}. Free some space in the folder for temporary files, or set the "
            "environment variable TMPDIR to another folder"
        ) from failure
    except UnicodeEncodeError as failure:
        raise OvssError(f"file name is not valid UTF-8: {failure.object!r}. Rename the file") from failure
