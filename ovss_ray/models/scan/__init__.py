"""SCAN, a segmenter with semantic-assisted calibration (Liu et al., 2024)."""
