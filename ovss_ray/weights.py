"""Checkpoints by name: where they come from, where they lie here, and whether they are what they should be."""

import hashlib
import os
import shutil
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_dir

from ovss_ray.errors import OvssError, UnknownName

HUB = "https://huggingface.co/"
SHIPPED = Path(__file__).parent / "weights_data"
"""The checkpoints that come with this project, each with a card NAME.json that says how it was made."""
FAKE = "ovss_ray_fake"
"""The entry that marks a checkpoint whose values are made up (models.fake)."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint that its authors publish, or that comes with this project."""

    file: str
    url: str
    """none: it comes with this project"""
    sha256: str | None
    """hex digits, where its publisher or a trusted download has given them"""
    bytes: int | None
    licence: str
    page: str
    """where to read about it, and to download it by hand"""
    option: str = "san.weights"
    """the option of a stage that takes its path"""


def _san(file: str) -> Weights:
    page = HUB + "Mendel192/san"
    licence = "MIT (of the code, https://github.com/MendelXu/SAN); the page says what holds for the weights"
    return Weights(file, f"{page}/resolve/main/{file}", None, None, licence, page)


def _clip(file: str, sha256: str) -> Weights:
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
    return Weights(file, url, sha256, None, "MIT", "https://github.com/openai/CLIP", "alpha_clip.base")


def _alpha_clip(file: str) -> Weights:
    url = f"https://download.openxlab.org.cn/models/SunzeY/AlphaCLIP/weight/{file}"
    licence = "for research (the code is Apache-2.0)"
    page = "https://github.com/SunzeY/AlphaCLIP/blob/main/model-zoo.md"
    return Weights(file, url, None, None, licence, page, "alpha_clip.weights")


def _sam(file: str) -> Weights:
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    page = "https://github.com/facebookresearch/segment-anything"
    return Weights(file, url, None, None, "Apache-2.0", page, "sam.weights")


def _mobile_sam() -> Weights:
    page = "https://github.com/ChaoningZhang/MobileSAM"
    return Weights(
        "mobile_sam.pt", f"{page}/raw/master/weights/mobile_sam.pt", None, None, "Apache-2.0", page, "sam.weights"
    )


def _shipped(file: str) -> Weights:
    return Weights(file, "", None, None, "Apache-2.0, trained by this project on scenes that it draws", "")


WEIGHTS = {
    "san_tiny": _shipped("san_tiny.safetensors"),
    "clip_tiny": _shipped("san_tiny.safetensors"),  # a part of it: models.alpha_clip reads a SAN's file as a CLIP
    "alpha_clip_tiny": _shipped("alpha_clip_tiny.safetensors"),
    "sam_tiny": _shipped("sam_tiny.safetensors"),
    "san_vit_b_16": _san("san_vit_b_16.pth"),
    "san_vit_large_14": _san("san_vit_large_14.pth"),
    "clip_vit_b_16": _clip("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "clip_vit_l_14": _clip("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "clip_vit_l_14_336": _clip("ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    "alpha_clip_vit_b_16": _alpha_clip("clip_b16_grit+mim_fultune_4xe.pth"),
    "alpha_clip_vit_l_14": _alpha_clip("clip_l14_grit+mim_fultune_6xe.pth"),
    "alpha_clip_vit_l_14_336": _alpha_clip("clip_l14_336_grit_20m_4xe.pth"),
    "sam_mobile": _mobile_sam(),
    "sam_vit_b": _sam("sam_vit_b_01ec64.pth"),
    "sam_vit_l": _sam("sam_vit_l_0b3195.pth"),
    "sam_vit_h": _sam("sam_vit_h_4b8939.pth"),
}


def cache_folder() -> Path:
    """Where this project keeps what it can make or fetch again: $OVSS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("OVSS_CACHE") or user_cache_dir("ovss_ray")).expanduser()


def weights_folder() -> Path:
    """Where checkpoints lie and are downloaded to: $OVSS_WEIGHTS, or `weights` in the cache folder."""
    return Path(os.environ.get("OVSS_WEIGHTS") or cache_folder() / "weights").expanduser()


def find(name: str, path: str | Path | None = None) -> Path:
    """Return the checkpoint: the one at `path` if given, else the one in the folder of weights, downloaded if need be.

    Raises UnknownName for a name that is not in WEIGHTS, and OvssError for a file that is not there and cannot be had:
    the message says where it was looked for, where it can be downloaded, and what to type then.
    """
    if path is not None:
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise OvssError(f"the weights of {name}: there is no file {file}. {_advice(name)}")
        return file
    return lookup(name) or _download(name)


def lookup(name: str) -> Path | None:
    """The checkpoint if it is here already, else None. Raises UnknownName."""
    if name not in WEIGHTS:
        raise UnknownName("checkpoint", name, WEIGHTS)
    file = ((weights_folder() if WEIGHTS[name].url else SHIPPED) / WEIGHTS[name].file).absolute()
    return file if file.is_file() else None


def _download(name: str) -> Path:
    weights = WEIGHTS[name]
    if not weights.url:
        raise OvssError(f"{weights.file} comes with ovss_ray, and is not in {SHIPPED}. Install ovss_ray again")
    try:
        weights_folder().mkdir(parents=True, exist_ok=True)
        got = _from_hub(weights) if weights.page.startswith(HUB) else _from_page(weights)
    except OSError as failure:  # every failure of both clients is one: no network, no such file, no space
        reason = str(failure).partition("\n")[0] or type(failure).__name__
        looked = f"not at {weights_folder() / weights.file}, and the download failed"
        raise OvssError(f"the weights of {name} are {looked}: {reason}. {_advice(name)}") from failure
    return verify(name, Path(got).absolute())


def _from_hub(weights: Weights) -> str:
    """Fetch from the Hugging Face hub, which shows progress, resumes, and locks the file against a second download."""
    from huggingface_hub import hf_hub_download

    return hf_hub_download(weights.page.removeprefix(HUB), weights.file, local_dir=weights_folder())


def _from_page(weights: Weights) -> Path:
    """Fetch from where its authors keep it; the file has its name only when it is whole."""
    file = weights_folder() / weights.file
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with urllib.request.urlopen(weights.url, timeout=60) as stream, aside.open("wb") as sink:
            shutil.copyfileobj(stream, sink, 1 << 20)
        return aside.rename(file)
    finally:
        aside.unlink(missing_ok=True)


def _advice(name: str) -> str:
    """What to type to get a checkpoint."""
    if name not in WEIGHTS:
        return "Give the path of an existing file"
    weights = WEIGHTS[name]
    fake = f". To try things out without it: ovss weights fake {name}" if name.startswith("san_") else ""
    return (
        f"Download {weights.file} from {weights.page} on a machine with a network, then either put it into a folder "
        f"and set OVSS_WEIGHTS to that folder, or add --set {weights.option}=PATH{fake}"
    )


def verify(name: str, file: Path) -> Path:
    """Return the file if size and sha256 are those of WEIGHTS, where those are known. Raises OvssError otherwise."""
    weights = WEIGHTS[name]
    size = file.stat().st_size
    if weights.bytes not in (None, size):
        raise OvssError(f"{file} has {size} bytes instead of {weights.bytes}. Delete it and download it again")
    if weights.sha256 not in (None, sha256(file) if weights.sha256 else None):
        raise OvssError(
            f"{file} has sha256 {sha256(file)} instead of {weights.sha256}. Delete it and download it again"
        )
    return file


def sha256(file: str | Path) -> str:
    """The sha256 of a file, in hex; hashed again only if the file has changed."""
    stat = Path(file).stat()
    return _sha256(str(file), stat.st_size, stat.st_mtime_ns)


def sha256_of(several: Sequence[Path]) -> str | None:
    """One sha256 for several files, by their names and contents, in hex; that of the file for one, None for none."""
    if len(several) < 2:
        return sha256(several[0]) if several else None
    lines = sorted(f"{file.name} {sha256(file)}" for file in several)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=100_000)
def _sha256(file: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with Path(file).open("rb") as stream:
        while piece := stream.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()


def is_fake(file: str | Path) -> bool:
    """Whether a checkpoint is one of models.fake, by the marker in it; no torch is needed, and no tensor is read."""
    return zipfile.is_zipfile(file) and any(FAKE.encode() in pickled for pickled in _pickles(Path(file)))


def _pickles(file: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                yield archive.read(name)
