"""SCAN, semantic-assisted calibration (Liu et al., 2024)."""
