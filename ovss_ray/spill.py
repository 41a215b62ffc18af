"""Rows that lie in a temporary file, so that a data set of any size can be listed, sorted and paired in little memory.

SQLite does it, which comes with Python: it holds half a MB of its file in memory, sorts through further files what does
not fit there, and removes them all.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ovss_ray.errors import OvssError

T = TypeVar("T")


class Rows(Generic[T]):
    """Rows of texts and numbers in the order in which they came, each handed out as what `make` makes of its values.

    `columns` are their names, separated by commas. With `order`, such as "a, b DESC", they come in that order instead.
    Raises OvssError if there is no room for temporary files.
    """

    def __init__(
        self, make: Callable[..., T], columns: str, rows: Iterable[Sequence[Any]], order: str = "rowid"
    ) -> None:
        self._make, self._order = make, order
        with _plain_errors():
            # "" is a file of SQLite's own. No journal: nobody reads it after a crash. The last user may be a thread.
            self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = OFF")
            self._base.execute("PRAGMA cache_size = -512")
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
        """Put one more row behind the others."""
        with _plain_errors():
            self._base.execute(self._insert, values)

    def __iter__(self) -> Iterator[T]:
        return self.in_order(self._order)

    def in_order(self, columns: str) -> Iterator[T]:
        """All rows, sorted: "a, b DESC". Texts stand in the order of their code points, as in Python."""
        return (self._make(*row) for row in self._ask(f"SELECT * FROM rows ORDER BY {columns}"))

    def counted(self, column: str) -> Iterator[tuple[Any, int]]:
        """Each value of a column once, sorted, and how many rows have it."""
        return self._ask(f"SELECT {column}, count(*) FROM rows GROUP BY {column} ORDER BY {column}")

    def repeats(self, columns: str, where: str = "true") -> bool:
        """Whether two of the rows for which a condition holds have the same values in some columns."""
        return any(self._ask(f"SELECT 1 FROM rows WHERE {where} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"))

    def _ask(self, question: str) -> Iterator[Any]:
        with _plain_errors():
            yield from self._base.execute(question)


def row(*values: Any) -> tuple[Any, ...]:
    """The values of a row as they are."""
    return values


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as failure:
        raise OvssError(
            f"a temporary file cannot be used: {failure}. Make room in the folder for such files, or name another one "
            "by the environment variable TMPDIR"
        ) from failure
    except UnicodeEncodeError as failure:
        raise OvssError(f"the name of a file is no UTF-8: {failure.object!r}. Rename it") from failure
