"""The stages of pipelines, one file each: `use: san` in a config is `Stage` in san.py."""
