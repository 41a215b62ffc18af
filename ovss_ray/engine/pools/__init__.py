"""Pools of worker processes, which write the records of images. They return a receipt per file of records."""
