"""Entry point of `python -m ovss_ray`, which is the same as the command `ovss`."""

from ovss_ray.cli.app import main

if __name__ == "__main__":
    main()
