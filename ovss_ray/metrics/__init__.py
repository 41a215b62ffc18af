"""The metrics, one file each: what is measured of an image, and how measurements add up to numbers."""
