"""A web server on 127.0.0.1 that behaves as ill as it is told to, and free ports of that address."""

import io
import re
import socket
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Web(ThreadingHTTPServer):
    """Serves `files`, name → content, by ranges if it is asked to, and notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        """name of the file, its Range or an empty string"""
        self.ranges = True
        self.cuts: list[int] = []
        """after how many bytes the next answers break off"""
        self.statuses: list[int] = []
        """what the next answers are instead of a file"""
        self.headers: dict[str, str] = {}
        self.held: threading.Event | None = None
        """what an answer waits for in its middle"""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Say nothing of those that hang up."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        name, web, wanted = self.path.lstrip("/"), self.server, self.headers.get("Range", "")
        web.asked.append((name, wanted))
        status = web.statuses.pop(0) if web.statuses else 200 if name in web.files else 404
        content = web.files.get(name, b"")
        tag = f'"{zlib.crc32(content)}"'
        if status == 200 and web.ranges and wanted and self.headers.get("If-Range") == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206 if start < len(content) else 416
            at = f"{start}-{len(content) - 1}" if status == 206 else "*"
            self._send(status, content[start:], {"ETag": tag, "Content-Range": f"bytes {at}/{len(content)}"})
        else:
            self._send(status, content if status == 200 else b"", {"ETag": tag} if web.ranges else {})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers, **self.server.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        end = self.server.cuts.pop(0) if self.server.cuts else len(body)
        middle = end // 2 if self.server.held else 0
        self.wfile.write(body[:middle])
        if self.server.held:
            self.server.held.wait(30)
        self.wfile.write(body[middle:end])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def zipped(files: Mapping[str, bytes]) -> bytes:
    """An archive of files, name → content."""
    with zipfile.ZipFile(sink := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def tarred(files: Mapping[str, bytes], packing: str = "") -> bytes:
    """An archive of files, name → content; `packing` may be gz."""
    with tarfile.open(fileobj=(sink := io.BytesIO()), mode=f"w:{packing}") as archive:
        for name, content in files.items():
            (entry := tarfile.TarInfo(name)).size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()
