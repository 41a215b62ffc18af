"""Fusioner (Ma et al., 2022): segmentation of one class at a time, by attention between tokens of a frozen CLIP."""
