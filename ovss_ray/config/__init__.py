"""Configs of runs: their settings, the code that reads config files, and the configs that come with the project."""
