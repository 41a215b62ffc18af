"""Batch runs on Ray: images are read, and one record per image is written."""
