"""Fusioner (Ma et al., 2022): attention between the tokens of CLIP's frozen towers segments one class at a time."""
