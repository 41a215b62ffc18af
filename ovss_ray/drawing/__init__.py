"""Drawn scenes with exact labels: numpy only, and the same to the last bit on every machine."""
