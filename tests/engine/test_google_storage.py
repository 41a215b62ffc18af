"""A run with data and folder on an emulator of Google Cloud Storage: its report is that of the same run on disk."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovss_ray
from ovss_ray.engine.progress import Counts
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.reports.schema import Report
from tests import in_process, two_classes
from tests.paths import absent
from tests.web import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 6


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[str]:
    """A bucket of the emulator. The cluster starts later, so that its workers inherit the variables."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        if importlib.util.find_spec(package) is None:
            absent(f"{package} is not installed: uv run --group google pytest -m slow")
    from gcp_storage_emulator.server import create_server

    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks a service that the emulator lacks
        with create_server("127.0.0.1", port, in_memory=True, default_bucket="scenes"):
            yield "gs://scenes"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, bucket: str) -> Path:
    """Photographs and label files on disk, and copies of them in the bucket."""
    folder = tmp_path_factory.mktemp("data")
    two_classes.write(folder, bucket, IMAGES)
    return folder


def run(root: object, out: object, progress: Counts) -> Report:
    return ovss_ray.evaluate("oracle", f"folder:{root}/mine.yaml", data_root=str(root), out=str(out), progress=progress)


def test_a_run_on_google_storage_resumes_and_ends_in_the_report_of_a_run_on_disk(
    data: Path, bucket: str, cluster: None, tmp_path: Path
) -> None:
    with in_process.pools():
        on_disk = run(data, tmp_path / "run", Counts())
    in_bucket = run(f"{bucket}/data", f"{bucket}/runs/first", Counts())
    assert list(in_bucket.benchmarks.values()) == list(on_disk.benchmarks.values())
    assert files.walk(f"{bucket}/runs/first/folder-mine/records")
    resumed = Counts()
    with in_process.pools():
        again = run(f"{bucket}/data", f"{bucket}/runs/first", resumed)
    assert resumed.earlier == IMAGES
    assert again.benchmarks == in_bucket.benchmarks


def test_a_missing_bucket_of_google_storage_is_reported_before_ray_starts(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match="--data-root gs://none/data: no such bucket or folder"):
        ovss_ray.evaluate("oracle", f"folder:{data}/mine.yaml", data_root="gs://none/data", out=tmp_path)
