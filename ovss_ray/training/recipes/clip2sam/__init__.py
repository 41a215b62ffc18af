"""Training of Open-Vocabulary SAM's class head and mask decoder (CLIP2SAM)."""
