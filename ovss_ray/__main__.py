"""`python -m ovss_ray` is the command `ovss`."""

from ovss_ray.cli import main

if __name__ == "__main__":
    main()
