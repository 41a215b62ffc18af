"""Batch runs on Ray, which read images and write one record per image."""
