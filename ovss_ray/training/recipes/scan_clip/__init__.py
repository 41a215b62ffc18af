"""Training of the CLIP that classifies SCAN's regions. The inputs are masked crops of the regions (see task.py).

In CLIP, the class token of the whole photograph replaces random background tokens of a crop (the contextual shift).
"""
