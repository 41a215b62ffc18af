"""Evaluate open-vocabulary semantic segmentation at scale. Start at `ovss --help` or docs in the README."""

__version__ = "0.1.0"
