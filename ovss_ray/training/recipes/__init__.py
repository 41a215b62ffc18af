"""Training recipes, one folder per kind of network: see `ovss_ray.training.config`."""
