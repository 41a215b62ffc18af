"""The stages of pipelines, one module each. In a config, `use: san` selects the class `Stage` in san.py."""
