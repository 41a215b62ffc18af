"""The commands `ovss metrics …`."""

from pathlib import Path
from typing import Annotated

import typer

from ovss_ray.errors import OvssError

metrics_app = typer.Typer(help="Prepare inputs of metrics, such as the relations of SG-IoU.", no_args_is_help=True)


@metrics_app.command("sg-iou")
def sg_iou(
    from_checkout: Annotated[Path, typer.Option(help="folder of a checkout of SCAN's official code")],
    table: Annotated[str, typer.Option(help="ade20k_150, ade20k_847 or pascal_context_459")],
    out: Annotated[Path | None, typer.Option(help="file to write [default: relations_TABLE.yaml here]")] = None,
) -> None:
    """Write a file of class relations for SG-IoU. The source is a checkout of SCAN's code, which is never executed."""
    from ovss_ray.dataprep import scan_relations
    from ovss_ray.io import files

    extract = scan_relations.extract(from_checkout, table)
    path = out or Path(f"relations_{table}.yaml")
    if path.exists():
        raise OvssError(f"{path}: exists already. Delete it, or pass another --out FILE")
    files.write(path, extract.yaml().encode())
    if extract.note:
        print(f"{table}: {extract.note}")
    print(f"{path}\nuse it with: ovss report RUN --relations {path}")
