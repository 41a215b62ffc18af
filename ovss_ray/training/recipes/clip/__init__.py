"""Training of a small CLIP on drawn scenes."""
