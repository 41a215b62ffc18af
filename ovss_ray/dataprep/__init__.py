"""Commands for data sets: download, prepare and check."""
