"""Training of AlphaCLIP on drawn scenes."""
