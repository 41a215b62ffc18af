"""Lookup of networks by name: find the family of a network, and find, download and verify its checkpoints.

A family is a folder of ovss_ray/models, or a user's package with the same files (see `ovss_ray.models`). The file
`variants.py` of a family lists the family's networks and checkpoints. No torch is imported here.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

from ovss_ray import registry
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io.digests import sha256
from ovss_ray.io.files import shown, stamp
from ovss_ray.io.files.cache import cache_folder, fetch, lock_of

PACKAGE = "ovss_ray.models"
HUB = "https://huggingface.co/"
FAKE = "ovss_ray_fake"
"""Key in a checkpoint that marks its weights as fake (models/fake.py)."""

NAMES = 1 << 20
"""Number of bytes that `has_entry` searches at the beginning of a file that is not a zip file."""


@dataclass(frozen=True)
class Weights:
    """A published checkpoint, or one that is shipped in the `weights` folder of its family."""

    file: str
    """name of the file; empty: no file was published"""
    url: str
    """address for the download; empty for a file that is shipped or must be downloaded by hand"""
    sha256: str | None
    """64 hex digits, if known from the publisher or from a trusted download; else None"""
    bytes: int | None
    licence: str
    page: str
    """URL of the web page that describes the checkpoint, for a download by hand"""
    option: str = ""
    """config option that sets the path of the checkpoint; empty: the option FAMILY.weights, such as "san.weights" """
    part_of: str = ""
    """name of another checkpoint whose file contains this checkpoint (a SAN's file contains its CLIP); else empty"""
    other_options: tuple[str, ...] = ()
    """further config options that set the checkpoint's path for other stages, such as "ovsam.sam" for SAM ViT-H"""
    manual: bool = False
    """True: a person must download the file from `page`, since the file has no direct URL"""


def shipped(file: str, *, option: str = "", part_of: str = "", other_options: tuple[str, ...] = ()) -> Weights:
    """Return the Weights of a checkpoint that this project trains and ships."""
    licence = "Apache-2.0, trained by this project on scenes that it draws"
    return Weights(file, "", None, None, licence, "", option, part_of, other_options)


def by_hand(file: str, licence: str, page: str) -> Weights:
    """Return the Weights of a checkpoint that has no direct URL.

    A person must download the file with the name `file` from `page`. If `file` is empty, no file was published.
    """
    return Weights(file, "", None, None, licence, page, manual=True)


def families() -> list[str]:
    """Return the package names of ovss_ray's families, without importing them."""
    return [f"{PACKAGE}.{name}" for name in registry.packages(PACKAGE, "variants")]


def variants(family: str) -> Mapping[str, Any]:
    """Return network name → object with the network's sizes, for all networks of a family.

    Raises OvssError if `family` is not a family's package.
    """
    return registry.find(PACKAGE, f"{family}.variants", "VARIANTS")


def checkpoints_of(family: str) -> Mapping[str, Weights]:
    """Return the checkpoints of a family: name → Weights. Raises OvssError if `family` is not a family's package."""
    return registry.find(PACKAGE, f"{family}.variants", "WEIGHTS")


def known() -> dict[str, Weights]:
    """Return the checkpoints of ovss_ray's families: name → Weights."""
    return {name: weights for family in families() for name, weights in checkpoints_of(family).items()}


def family_of(name: str, kind: str = "model") -> tuple[str, str]:
    """Return the package name of a network's family, and the network's name without the package.

    For example, `name` is "san_tiny", or "my_package.my_family:tiny" for a network of a user's package. Raises
    UnknownName for an unknown name, with `kind` in the message. Raises OvssError if the package is not a family.
    """
    return _look_up(name, kind, variants)


def weights_of(name: str) -> Weights:
    """Return the Weights of a checkpoint, such as "san_tiny" or "my_package.my_family:tiny".

    Raises UnknownName for an unknown name, and OvssError if the package is not a family.
    """
    family, inner = _look_up(name, "checkpoint", checkpoints_of)
    return checkpoints_of(family)[inner]


def _look_up(name: str, kind: str, table: Callable[[str], Mapping[str, Any]]) -> tuple[str, str]:
    """Split `name` into a family's package name and a key of `table(family)`. Raises UnknownName."""
    package, colon, inner = name.rpartition(":")
    searched = [package] if colon else families()
    for family in searched:
        if inner in table(family):
            return family, inner
    raise UnknownName(kind, name, [f"{package}{colon}{known}" for family in searched for known in table(family)])


def option_of(name: str) -> str:
    """Return the option, such as "san.weights", with which a user sets a checkpoint's path. Raises UnknownName."""
    family, inner = _look_up(name, "checkpoint", checkpoints_of)
    return checkpoints_of(family)[inner].option or f"{family.rpartition('.')[2]}.weights"


def fakeable() -> list[str]:
    """Return the names of networks whose family has a module `fake`. The module is not imported."""
    return [name for family in families() if registry.exists(f"{family}.fake") for name in variants(family)]


def weights_folder() -> Path:
    """Return the folder of downloaded checkpoints: $OVSS_WEIGHTS, or `weights` in the cache folder."""
    return Path(os.environ.get("OVSS_WEIGHTS") or cache_folder() / "weights").expanduser()


def files(name: str, paths: Sequence[str | Path | None] = ()) -> tuple[Path, ...]:
    """Return the paths of a network's checkpoints, in the order of the family's function `checkpoints`.

    `paths` has the user's paths in the same order. It may be shorter, and may contain None. In place of a missing path,
    the published or shipped file is used. If the first file contains the weights of further checkpoints, the
    further checkpoints are left out. If `paths` has a path for a further checkpoint, none is left out.

    Raises UnknownName and OvssError (see `find`).
    """
    family, inner = family_of(name)
    names = getattr(import_module(f"{family}.variants"), "checkpoints", None)
    needed = [name.removesuffix(inner) + checkpoint for checkpoint in (names(inner) if names else (inner,))]
    if len(paths) > len(needed):
        raise OvssError(
            f"too many weights: {name} has {len(needed)} checkpoints ({', '.join(needed)}), found {len(paths)} paths. "
            "Pass one path per checkpoint"
        )
    every = [*paths, *[None] * (len(needed) - len(paths))]
    remaining = getattr(import_module(f"{family}.variants"), "remaining", None)
    if remaining:
        rest = [name.removesuffix(inner) + checkpoint for checkpoint in remaining(inner, find(needed[0], every[0]))]
        if not any(every[1 + len(rest) :]):
            needed, every = [needed[0], *rest], every[: 1 + len(rest)]
    return tuple(find(checkpoint, path) for checkpoint, path in zip(needed, every, strict=True))


def find(name: str, path: str | Path | None = None) -> Path:
    """Return the path of a checkpoint's file on this machine, after a download if needed.

    If `path` is None, the published or shipped file is used. If `path` is a URI, such as s3://bucket/san.pth, the file
    is copied into the folder of downloaded checkpoints. Raises OvssError if the file cannot be found or downloaded. If
    `path` is None, raises UnknownName for an unknown name, and OvssError if `verify` rejects the file.
    """
    if path is not None and "://" in str(path):
        return _copy(str(path), weights_folder())
    if path is not None:
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise OvssError(f"the weights of {name}: file not found: {file}. {_advice(name)}")
        return file
    return verify(name, lookup(name) or _download(name))


def lookup(name: str) -> Path | None:
    """Return the checkpoint's path on this machine, or None if the file does not exist. Raises UnknownName."""
    weights = weights_of(name)
    if weights.part_of:
        return lookup(weights.part_of)
    downloaded = weights.url or weights.manual
    file = ((weights_folder() if downloaded else _shipped_folder(name)) / weights.file).absolute()
    return file if file.is_file() else None


def _shipped_folder(name: str) -> Path:
    family, _ = _look_up(name, "checkpoint", checkpoints_of)
    module = import_module(f"{family}.variants")
    return Path(str(module.__file__)).parent / "weights"


@lru_cache
def _copy(uri: str, folder: Path) -> Path:
    """Return the path of a local copy of the file at a URI. The path depends on the version of the file."""
    state = stamp(uri)
    if state == "absent":
        raise OvssError(f"the weights: file not found: {shown(uri)}. Correct the address")
    version = hashlib.sha256(f"{uri} {state}".encode()).hexdigest()[:16]
    try:
        return fetch(uri, (folder / "copies" / version / uri.rpartition("/")[2]).absolute())
    except OSError as failure:
        raise OvssError(
            f"{folder}: cannot be written: {failure.strerror or failure}. Set OVSS_WEIGHTS to a writable folder"
        ) from failure


def _download(name: str) -> Path:
    weights = weights_of(name)
    if weights.manual:
        place = f"no file {weights_folder() / weights.file}, and no direct URL" if weights.file else "not published"
        raise OvssError(f"the weights of {name} are missing: {place}. {_advice(name)}")
    if not weights.url:
        owner = weights.part_of or name
        raise OvssError(f"{weights.file} is missing in {_shipped_folder(owner)}. Install ovss_ray again")
    file = weights_folder() / weights.file
    try:
        if weights.page.startswith(HUB):
            _from_hub(weights, file)
        else:
            fetch(weights.url, file)
    except (OSError, OvssError) as failure:  # the hub's client raises OSError for all failures
        reason = str(failure).partition("\n")[0] or type(failure).__name__
        raise OvssError(
            f"the weights of {name} are not at {file}, and the download failed: {reason}. {_advice(name)}"
        ) from failure
    return file.absolute()


def _from_hub(weights: Weights, file: Path) -> None:
    """Download a checkpoint from the Hugging Face hub, unless another process has created `file` in the meantime."""
    from huggingface_hub import hf_hub_download

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(file)):
        if not file.is_file():
            hf_hub_download(weights.page.removeprefix(HUB), weights.file, local_dir=file.parent)


def _advice(name: str) -> str:
    """Return instructions to get a checkpoint by hand."""
    try:
        weights = weights_of(name)
    except UnknownName:
        return "Pass the path of an existing file"
    fake = f". To try things out without it: ovss weights fake {name}" if name in fakeable() else ""
    if not weights.file:
        return f"{weights.page} offers no checkpoint of it. Train one, and {_setting(name)}{fake}"
    return (
        f"Download {weights.file} from {weights.page} on a machine with a network, then either put it into a folder "
        f"and set OVSS_WEIGHTS to that folder, or {_setting(name)}{fake}"
    )


def _setting(name: str) -> str:
    """Return advice such as "add --set san.weights=PATH", with all options that set the checkpoint's path."""
    others = "".join(
        f", or {option} for the stage {option.partition('.')[0]}" for option in weights_of(name).other_options
    )
    return f"add --set {option_of(name)}=PATH{others}"


def verify(name: str, file: Path) -> Path:
    """Return `file`. Raises OvssError if the file's size or SHA-256 differs from a known value in Weights."""
    weights = weights_of(name)
    size = file.stat().st_size
    if weights.bytes not in (None, size):
        raise OvssError(f"{file} has {size} bytes instead of {weights.bytes}. Delete it and download it again")
    if weights.sha256 not in (None, sha256(file) if weights.sha256 else None):
        raise OvssError(
            f"{file} has sha256 {sha256(file)} instead of {weights.sha256}. Delete it and download it again"
        )
    return file


def has_entry(file: str | Path, part: str) -> bool:
    """Return whether a checkpoint has an entry whose name contains the text `part`. No tensor is read."""
    # The names are in the pickles of a zip file, and in the first bytes of other files.
    if zipfile.is_zipfile(file):
        return any(part.encode() in pickled for pickled in _pickles(Path(file)))
    with open(file, "rb") as opened:
        return part.encode() in opened.read(NAMES)


def is_fake(file: str | Path) -> bool:
    """Return whether the key FAKE marks a checkpoint as fake. No tensor is read, and torch is not imported."""
    return zipfile.is_zipfile(file) and any(FAKE.encode() in pickled for pickled in _pickles(Path(file)))


def _pickles(file: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                yield archive.read(name)
