"""Open-Vocabulary SAM (Yuan et al., 2024): a mask and a class for each prompt."""
