"""Training of SAN: the official recipe, and the one of the small network."""
