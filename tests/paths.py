"""Folders that tests read, and the end of a test that lacks something."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
"""The folder of the project: configs/, jobs/, docs/."""
SHARED = ROOT.parent / "shared"
"""The reference data beside the project: real samples, goldens of the official code."""


def absent(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI=true: there nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
