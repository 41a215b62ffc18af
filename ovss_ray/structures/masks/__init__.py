"""Masks of the regions of an image: encodings, contours, centre points, and average precision."""
