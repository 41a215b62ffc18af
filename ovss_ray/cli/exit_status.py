"""The exit statuses of the command line: 0 done, 1 incomplete (see FAILED), 2 an error, 130 Ctrl-C, 143 SIGTERM."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ovss_ray.engine import interrupts
from ovss_ray.errors import OvssError

FAILED = 1
"""Exit status if images have no result, files could not be created, or faults were found."""


@contextmanager
def errors_printed() -> Iterator[None]:
    """If the block raises an OvssError, print it as one message and exit with status 2."""
    try:
        yield
    except OvssError as failure:
        print(f"ovss: {failure}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def resumable(advice: str) -> Iterator[None]:
    """If the block is interrupted, print `advice` and exit with status 130 (Ctrl-C) or 143 (SIGTERM).

    Use this context manager only inside the function of a typer command.
    """
    try:
        with interrupts.ends_process():
            yield
    except KeyboardInterrupt as interrupt:
        # typer converts this exception to the exit status
        raise typer.Exit(interrupts.leave(interrupt, advice)) from None
