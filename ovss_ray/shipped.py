"""The configs that come with the project."""

from pathlib import Path

from ovss_ray.errors import UnknownName


def find_config(name: str) -> Path:
    """Return a config's path: a file, or the name of one that comes with the project. Raises UnknownName."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    if name not in shipped:
        raise UnknownName("config", name, shipped)
    return shipped[name]


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the project, by name: in the wheel beside this file, in a checkout above it."""
    here = Path(__file__).parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
