"""Masks: regions of images, their encodings, and points in them."""
