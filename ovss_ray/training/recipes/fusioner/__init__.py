"""Training of Fusioner: the official recipe, and the recipe of the small network."""
