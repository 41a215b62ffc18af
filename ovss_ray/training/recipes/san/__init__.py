"""Training of SAN: the official recipe, and the recipe of the small network."""
