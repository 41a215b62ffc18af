"""Training of SAM on drawn scenes."""
