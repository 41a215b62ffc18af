"""Stages that sleep, with columns of real sizes: the load of a cluster without its computations (`perf scale`)."""

SIZE = (512, 683)
"""H and W in pixels of the photographs and label maps, as in ADE20K"""
