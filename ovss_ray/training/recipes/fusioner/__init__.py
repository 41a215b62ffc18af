"""Training of Fusioner: the official recipe, and the one of the small network."""
