"""Open-Vocabulary SAM (Yuan et al., 2024): a prompt becomes a mask and a name."""
