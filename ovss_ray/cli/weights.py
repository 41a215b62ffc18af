"""The commands `ovss weights …`."""

from pathlib import Path
from typing import Annotated

import typer

weights_app = typer.Typer(help="Find, download and merge checkpoints, or write fake ones.", no_args_is_help=True)


@weights_app.command("list")
def weights_list() -> None:
    """List the known checkpoints, with the paths of those that are on this machine."""
    from ovss_ray.cli import inventory
    from ovss_ray.reports import terminal

    terminal.console().print(inventory.weights())


@weights_app.command("fetch")
def weights_fetch(name: str) -> None:
    """Download a checkpoint if it is not on this machine, and print its path."""
    from ovss_ray.models import zoo

    print(zoo.find(name))


@weights_app.command("fake")
def weights_fake(
    name: Annotated[str, typer.Argument(help="such as san_vit_b_16")],
    out: Annotated[Path | None, typer.Option(help="[default: NAME_fake.pth here]")] = None,
    seed: int = 0,
) -> None:
    """Write a checkpoint with made-up values in the official format.

    Such a checkpoint serves to test speed and setup without the official checkpoint.
    """
    from ovss_ray.models import fake, zoo

    path = out or Path(f"{name}_fake.pth")
    fake.write(name, path, seed)
    print(f"{path}\nuse it with: ovss evaluate {name} --set {zoo.option_of(name)}={path} …")


@weights_app.command("merge")
def weights_merge(
    name: Annotated[str, typer.Argument(help="scan_vitL or scan_vitB")],
    clip: Annotated[Path, typer.Option(help="checkpoint of the CLIP that was fine-tuned on masked crops")],
    segmenter: Annotated[Path, typer.Option(help="checkpoint of the mask network, with the pretrained CLIP inside")],
    out: Annotated[Path | None, typer.Option(help="[default: NAME.pth here]")] = None,
) -> None:
    """Merge the files of SCAN's two trainings into one checkpoint, as the official tools/replace_clip.py does."""
    from ovss_ray import models
    from ovss_ray.errors import UnknownName
    from ovss_ray.models import zoo
    from ovss_ray.models.scan import towers
    from ovss_ray.models.scan.variants import VARIANTS

    if name not in VARIANTS:
        raise UnknownName("SCAN", name, VARIANTS)
    models.load(name, segmenter)  # a file that does not fit is refused before anything is written
    path = out or Path(f"{name}.pth")
    towers.merge(name, segmenter, clip, path)
    print(f"{path}\nuse it with: ovss evaluate {name} --set {zoo.option_of(name)}={path} …")
