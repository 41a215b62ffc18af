"""Folders of data sets: the data root, and the layouts below it."""

import os
from collections.abc import Iterable, Mapping

from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files


def data_root(folder: str | None) -> str:
    """Return the absolute path of the data root: `folder`, or else $OVSS_DATA. Raises OvssError if neither is set."""
    root = folder or os.environ.get("OVSS_DATA")
    if not root:
        raise OvssError("no data root: pass --data-root DIR or set OVSS_DATA=DIR")
    return files.absolute(root)


def below(root: str, usual_folder: str, layouts: Iterable[tuple[str, ...]], advice: str) -> list[str]:
    """Return the addresses of a data set's folders, such as ["/data/camvid/test", "/data/camvid/testannot"].

    A layout is a tuple of folders below `root`/`usual_folder` or below `root`, such as ("test", "testannot"). The first
    layout whose folders all exist is returned. If no layout is complete, raises OvssError with `advice` on how to get
    the data.
    """
    tried = []
    for layout in layouts:
        for base in (files.join(files.absolute(root), usual_folder), files.absolute(root)):
            addresses = [files.join(base, folder) for folder in layout]
            if all(map(files.exists, addresses)):
                return addresses
            tried += addresses
    raise OvssError(f"data set not found below {root!r}. Searched: {', '.join(tried)}. {advice}")


def split_folder(split: str, folders: Mapping[str, str]) -> str:
    """Return the folder of a split; `folders` maps split → folder. Raises UnknownName for an unknown split."""
    if split not in folders:
        raise UnknownName("split", split, folders)
    return folders[split]
