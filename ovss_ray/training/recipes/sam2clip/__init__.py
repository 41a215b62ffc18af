"""Training of Open-Vocabulary SAM's neck (SAM2CLIP): CLIP's features become SAM's image embedding."""
