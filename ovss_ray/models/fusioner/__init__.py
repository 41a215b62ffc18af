"""Fusioner: one class at a time, by attention between the frozen tokens of CLIP's two towers."""
