"""AlphaCLIP (Sun et al., 2023), and plain CLIP, as classifiers of regions."""
