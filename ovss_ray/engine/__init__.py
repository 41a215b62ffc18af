"""Batch runs on Ray. A run reads images, and writes one record per image."""
