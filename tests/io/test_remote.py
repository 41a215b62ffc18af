"""Remote files: a web server of this machine, listed and read as a folder; keys are never shown."""

import http.server
import io
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.io.files import addresses, remote
from ovss_ray.runs import manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in three formats, one of them with a header longer than what is read first, and label files."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "photos/deep er").mkdir(parents=True)
    (folder / "masks").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (33, 47, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photos/a.jpg", comment=b"c" * 60_000, icc_profile=b"i" * 9000)
    Image.fromarray(pixels).save(folder / "photos/deep er/b.png")
    Image.fromarray(pixels[:20]).save(folder / "photos/deep er/c.tif")
    for name, height in (("a", 33), ("b", 33), ("c", 20)):
        Image.fromarray(np.zeros((height, 47), np.uint8)).save(folder / f"masks/{name}.png")
    (folder / "benchmark.yaml").write_text("images: photos\nlabels: masks/*.png\nclasses: [soil, crop]\n")
    return folder


class Server(http.server.ThreadingHTTPServer):
    statuses: list[int]
    """what the next answers are instead of a file"""


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        server: Server

        def log_message(self, *_: object) -> None:
            pass

        def send_head(self) -> io.BytesIO | io.BufferedReader | None:
            if self.server.statuses:
                self.send_error(self.server.statuses.pop(0))
                return None
            return super().send_head()

    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(data)))
    server.statuses = []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def web(server: Server) -> str:
    server.statuses.clear()
    return f"http://127.0.0.1:{server.server_port}"


def test_a_data_set_on_a_web_server_is_listed_and_measured_as_on_disk(data: Path, web: str) -> None:
    name = f"folder:{data}/benchmark.yaml"
    benchmark = catalog.load(name)
    on_disk = manifest.build(name, benchmark, str(data), Selection.of(benchmark))
    name = f"folder:{web}/benchmark.yaml"
    benchmark = catalog.load(name)
    table = manifest.build(name, benchmark, "/nowhere", Selection.of(benchmark))
    same = ["image_id", "height", "width", "part", "vocabulary"]
    assert table.select(same).equals(on_disk.select(same))
    assert len(table) == 3
    uri = next(uri for uri in table["image_uri"].to_pylist() if uri.endswith("/b.png"))
    assert images.decode(files.read(uri), uri).shape == (33, 47, 3)
    assert table["image_stamp"].to_pylist()[0] not in ("", "absent")
    assert sorted(files.entries(web)) == [("benchmark.yaml", False), ("masks", True), ("photos", True)]
    assert files.is_folder(f"{web}/photos")
    assert not files.is_folder(f"{web}/photos/a.jpg")


@pytest.mark.parametrize(("statuses", "passes"), [([503, 500, 429], True), ([503] * 9, False), ([403], False)])
def test_a_read_that_fails_for_a_moment_is_repeated(
    web: str, server: Server, statuses: list[int], passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the pauses between attempts
    server.statuses += statuses
    if passes:
        assert files.read(f"{web}/masks/a.png")
        assert not server.statuses
        return
    with pytest.raises(OvssError, match=f"a.png: cannot be read: .*{statuses[0]}"):
        files.read(f"{web}/masks/a.png")
    assert len(server.statuses) == max(0, len(statuses) - remote.ATTEMPTS)


def test_a_server_that_refuses_or_is_gone_does_not_count_as_a_missing_file(
    web: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert not files.exists(f"{web}/none.png")
    server.statuses += [403, 403]
    with pytest.raises(OvssError, match=r"none.png: cannot be accessed: access denied \(403"):
        files.exists(f"{web}/none.png")
    with pytest.raises(OvssError, match=r"cannot be accessed: .*127\.0\.0\.1"):
        files.exists("http://127.0.0.1:9/a.png")
    with pytest.raises(OvssError, match=r"a.png: cannot be read: no such file"):
        files.read(f"{web}/a.png")
    with pytest.raises(OvssError, match="cannot be written"):
        files.write(f"{web}/a.png", b"")


@pytest.mark.parametrize(
    "uri",
    [
        *("https://user:hunter2@host/x.png", "https://hunter2@host/x.png", "s3://KEY:hunter2@bucket/x.png"),
        *("https://host/x.png?X-Amz-Signature=hunter2", "s3://bucket/x.png?secret_key=hunter2"),
        "abfs://user:hunter2@account/x.png",
    ],
)
def test_an_address_with_a_key_is_refused_without_showing_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (files.absolute, files.read, files.exists, files.stamp):
        if function is files.stamp:  # an unknown stamp: the file is read, and then refused
            assert files.stamp(uri) == ""
            continue
        with pytest.raises(OvssError, match="the address contains a") as refusal:
            function(uri)
        assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in addresses.without_secrets(f"403 for url {uri} (GET)")


def test_addresses_that_only_look_like_keys_are_left_alone() -> None:
    for uri in ("abfs://photos@account.dfs.core.windows.net/a@b.png", "s3://bucket/a?.png", "/d/a:b@c?token=1.png"):
        assert files.absolute(uri) == uri
        assert files.shown(uri) == uri


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcs"), ("abfs", "azure")])
def test_a_missing_library_names_the_extra_to_install(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gcsfs", "adlfs"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(OvssError, match=rf"is not installed. Run `pip install 'ovss_ray\[{extra}\]'`"):
        files.read(f"{scheme}://bucket/x.png")
