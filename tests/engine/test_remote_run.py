"""A run whose data and folder are on an S3 server of this machine: its report is that of the same run on disk."""

import logging
import os
import signal
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import ovss_ray
from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.engine.progress import Counts
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files import remote
from ovss_ray.runs import manifest
from ovss_ray.runs.lease import FILE
from tests import in_process, two_classes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 14
SECRET = "AKIA0000SECRET0000"


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[str]:
    """A bucket of moto's server. The cluster starts later, so that its workers inherit the keys."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, SECRET)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="scenes")
        yield "s3://scenes"
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, bucket: str) -> Path:
    """Photographs and label files on disk, and copies of them in the bucket."""
    folder = tmp_path_factory.mktemp("data")
    two_classes.write(folder, bucket, IMAGES)
    return folder


class Shooting(Counts):
    """Kills a worker after the first record, and the run after the sixth image."""

    def __init__(self, witness: Path) -> None:
        super().__init__()
        self.witness, self.shot = witness, 0

    def update(self, receipt: Mapping[str, Any]) -> None:
        super().update(receipt)
        if not self.shot:
            self.shot = int(self.witness.read_text().split()[-1].partition("@")[2])
            os.kill(self.shot, signal.SIGKILL)
        elif self.done >= 6 and self.deaths:
            raise KeyboardInterrupt


def run(root: str, out: str, progress: Counts, **options: Any) -> dict[str, Any]:
    stages = [{"use": "tests.toys", "options": options}]
    config = {"exact": True, "pools": [{"cpus": 1, "workers": 1, "stages": stages}]}
    report = ovss_ray.evaluate(config, f"folder:{root}/mine.yaml", data_root=root, out=out, progress=progress)
    return {"benchmarks": list(report.model_dump(mode="json")["benchmarks"].values())}


def test_a_run_on_s3_that_loses_a_worker_and_is_interrupted_ends_in_the_report_of_a_run_on_disk(
    data: Path, bucket: str, cluster: None, tmp_path: Path
) -> None:
    with in_process.pools():
        on_disk = run(str(data), str(tmp_path / "run"), Counts())
    assert on_disk["benchmarks"][0]["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    out, shooting = f"{bucket}/runs/first", Shooting(tmp_path / "witness")
    with pytest.raises(KeyboardInterrupt):
        run(f"{bucket}/data", out, shooting, witness=str(shooting.witness), seconds=0.3)
    assert shooting.deaths
    before = set(files.walk(f"{out}/folder-mine/records"))
    assert 6 <= len(before) < IMAGES
    assert not files.exists(f"{out}/{FILE}"), "an interrupted command releases its lease"
    resumed = Counts()
    with in_process.pools():
        on_s3 = run(f"{bucket}/data", out, resumed)
    assert on_s3 == on_disk
    assert before <= set(files.walk(f"{out}/folder-mine/records"))
    assert resumed.earlier >= 6
    maps = [f"{folder}/folder-mine/predictions/i07.png" for folder in (out, tmp_path / "run")]
    assert files.read(maps[0]) == files.read(maps[1])
    assert not [uri for uri in files.walk(out) if SECRET.encode() in files.read(uri)]


def test_a_missing_bucket_is_reported_before_ray_starts(data: Path, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match="--data-root s3://none/data: no such bucket or folder"):
        ovss_ray.evaluate("oracle", f"folder:{data}/mine.yaml", data_root="s3://none/data", out=tmp_path)
    with pytest.raises(OvssError, match=r"s3://none/run.*: The specified bucket does not exist"):
        ovss_ray.evaluate("oracle", f"folder:{data}/mine.yaml", data_root=data, out="s3://none/run")


def test_images_in_archives_of_a_bucket_are_read_by_their_position(data: Path, bucket: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for kind in ("photos", "labels"):
            archive.add(data / kind, kind)
    files.write(f"{bucket}/all.tar", (tmp_path / "all.tar").read_bytes())
    (tmp_path / "mine.yaml").write_text((data / "mine.yaml").read_text())  # a folder without photographs
    benchmark = catalog.load(f"folder:{tmp_path}/mine.yaml")
    table = manifest.build("mine", benchmark, f"{bucket}/all.tar", Selection.of(benchmark))
    assert len(table) == IMAGES
    for row in table.to_pylist():
        assert row["image_uri"].startswith(f"{bucket}/all.tar@")
        assert files.read(row["image_uri"]) == (data / f"photos/{row['image_id']}.png").read_bytes()
        assert (row["height"], row["width"]) == (16, 20 + int(row["image_id"][1:]) % 3)


def test_files_in_a_bucket_are_listed_page_by_page_and_created_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAGE", 2)
    for number in range(3):
        files.write(f"{bucket}/deep/{number} #?%20ä.bin", b"%d" % number)
    assert files.walk(f"{bucket}/deep") == [f"{bucket}/deep/{number} #?%20ä.bin" for number in range(3)]
    assert ("deep", True) in files.entries(bucket)
    assert files.is_folder(f"{bucket}/deep")
    assert files.names(f"{bucket}/nowhere") == []
    assert files.beginning(f"{bucket}/deep/1 #?%20ä.bin", 9) == b"1"
    assert files.create(f"{bucket}/once", b"first")
    assert not files.create(f"{bucket}/once", b"second")
    assert files.read(f"{bucket}/once") == b"first"
    files.delete(f"{bucket}/once")
    files.delete(f"{bucket}/once")
    assert files.stamp(f"{bucket}/once") == "absent"


def test_a_file_is_written_by_a_single_request(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    call, requests = S3FileSystem._call_s3, list[str]()

    async def noted(store: S3FileSystem, method: str, *rest: Any, **options: Any) -> Any:
        requests.append(method)
        return await call(store, method, *rest, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", noted)
    files.write(f"{bucket}/large", bytes(20_000_000))
    assert requests == ["put_object"]
