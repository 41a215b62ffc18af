"""Runs. A run is a folder with a plan, a manifest and records."""
