"""Short scripts that run without downloads, weights or a GPU."""
