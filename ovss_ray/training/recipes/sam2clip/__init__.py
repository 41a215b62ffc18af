"""Training of Open-Vocabulary SAM's neck (SAM2CLIP), which converts CLIP's features to SAM's image embedding."""
