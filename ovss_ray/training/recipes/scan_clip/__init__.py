"""Training of the CLIP that classifies SCAN's regions: contextual shift on masked crops."""
