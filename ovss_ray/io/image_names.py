"""Search for the path of an image, by the image's id. Neither paths nor ids have a suffix.

A loose match is a path that contains all parts of the id in the same order. The last part of the path must equal the
last part of the id. For example, the path `val/maps/0001` is a loose match of the id `val/0001`.
"""

import unicodedata
from collections.abc import Iterable


class ImageNames:
    """An index of paths without suffixes, searched by image ids."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._named: dict[str, list[str]] = {}
        for path in paths:
            self._named.setdefault(_composed(path).rpartition("/")[2], []).append(path)

    def fitting(self, image_id: str) -> list[str]:
        """Return the paths that may belong to an image's id.

        If a path equals the id, return only this path. Otherwise, if exactly one path ends in the id, return only that
        path. In all other cases, return all loose matches (see the docstring of this module).
        """
        wanted = _composed(image_id)
        alike = {path: _composed(path) for path in self._named.get(wanted.rpartition("/")[2], [])}
        equal = [path for path, name in alike.items() if name == wanted]
        ending = [path for path, name in alike.items() if f"/{name}".endswith(f"/{wanted}")]
        if equal or (len(ending) == 1 and "/" in wanted):
            return equal or ending
        return [path for path, name in alike.items() if _in_order(wanted.split("/"), name.split("/"))]


def _composed(name: str) -> str:
    """Return a name with accents in composed form (NFC). File names from macOS have accents in decomposed form."""
    return unicodedata.normalize("NFC", name)


def _in_order(steps: list[str], path: list[str]) -> bool:
    """Return whether a path contains all parts of an image's id, in the order of the id.

    `steps` are the parts of the id, such as ["val", "0001"]. `path` are the parts of the path, such as
    ["val", "maps", "0001"]. Parts of the path that are not in the id are skipped.
    """
    left = iter(path)
    return all(step in left for step in steps)
