"""Training of the CLIP that classifies SCAN's regions, on masked crops with the contextual shift (see task.py)."""
