"""The commands `ovss weights …`."""

from pathlib import Path
from typing import Annotated

import typer

weights_app = typer.Typer(help="Find, fetch and make up checkpoints.", no_args_is_help=True)


@weights_app.command("list")
def weights_list() -> None:
    """List the known checkpoints, and where those that are here lie."""
    from ovss_ray import inventory, tables

    tables.console().print(inventory.weights())


@weights_app.command("fetch")
def weights_fetch(name: str) -> None:
    """Download a checkpoint if it is not here, and print its path."""
    from ovss_ray import weights

    print(weights.find(name))


@weights_app.command("fake")
def weights_fake(
    name: Annotated[str, typer.Argument(help="such as san_vit_b_16")],
    out: Annotated[Path | None, typer.Option(help="[default: NAME_fake.pth here]")] = None,
    seed: int = 0,
) -> None:
    """Write a checkpoint in the official format with made-up values, to try speed and plumbing without the real one."""
    from ovss_ray.models import fake

    path = out or Path(f"{name}_fake.pth")
    fake.write(name, path, seed)
    print(f"{path}\nuse it with: ovss evaluate {name} --set {name.partition('_')[0]}.weights={path} …")
