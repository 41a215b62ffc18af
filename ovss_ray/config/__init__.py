"""Config of a run: its settings, its reader, and the configs that come with the project."""
