"""Runs: the plan of a run, and its folder with config, manifests and records."""
