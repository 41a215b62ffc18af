"""Configs that come with the project."""

from pathlib import Path

from ovss_ray.errors import UnknownName


def find_config(name: str) -> Path:
    """Return the path of a config.

    `name`: path of a config file, or name of a config that comes with the project. Raises UnknownName if `name` is
    neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    if name not in shipped:
        raise UnknownName("config", name, shipped)
    return shipped[name]


def shipped_configs() -> dict[str, Path]:
    """Return config name → path for the configs that come with the project."""
    here = Path(__file__).parents[1]
    # In an installed package, the folder `configs` is inside the package. In a checkout, it is next to the package.
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
