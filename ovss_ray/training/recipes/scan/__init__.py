"""Training of SCAN's mask network and calibration: the official recipe, and the one of the small network."""
