"""The Ray cluster of a run: connection, start, size, checks before the run, and placement of workers."""
