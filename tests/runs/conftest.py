"""Fixtures that tests of runs share with those of data sets."""

from tests.datasets.conftest import folds

__all__ = ["folds"]
