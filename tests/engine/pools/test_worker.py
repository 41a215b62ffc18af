"""The trace files of workers: old ones are deleted, by several workers at once."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovss_ray.engine.pools import worker


def test_two_workers_delete_the_same_old_trace_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    traces = [tmp_path / f"{name}.txt" for name in ("deleted", "old", "young")]
    for trace in traces:
        trace.write_text("Fatal Python error: Segmentation fault")
    for trace in traces[:2]:
        os.utime(trace, (time.time() - 2 * worker.DAY,) * 2)

    def listed(folder: Path) -> Iterator[Path]:
        traces[0].unlink()  # by another worker, after this one has listed the folder
        return iter(traces)

    monkeypatch.setattr(worker, "_trace_file", lambda name: tmp_path / f"{name}.txt")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", listed)
        worker._traces("new").close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.txt", "young.txt"]
