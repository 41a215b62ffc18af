"""Training of SCAN's mask network and calibration: the official recipe, and the recipe of the small network."""
