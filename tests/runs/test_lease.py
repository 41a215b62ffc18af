"""The lease of a run folder: a second command is refused, a dead one's lease is taken over, a lost one ends its run."""

import json
import resource
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.runs import lease
from ovss_ray.runs.folder import RunFolder

ELSEWHERE = {"token": "theirs", "host": "node7", "pid": 12, "since": "2026-01-01T00:00:00+00:00", "renewed": "0"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run folder whose leases are stale after a moment."""
    monkeypatch.setattr(lease, "STALE", 0.3)
    monkeypatch.setattr(lease, "LOOK", 0.05)
    return RunFolder(str(tmp_path / "run"))


def hold(folder: RunFolder) -> list[str]:
    """Hold the lease for a moment. Return the messages."""
    said: list[str] = []
    with lease.held(folder, said.append) as mine:
        mine.check()
    return said


def test_a_second_command_is_refused_at_once_and_told_who_holds_the_folder(folder: RunFolder) -> None:
    with lease.held(folder, print):
        with pytest.raises(OvssError, match=r"another command works in this run folder: host .*, process \d+, since"):
            hold(folder)
        assert Path(folder.file(lease.FILE)).exists(), "the first one keeps it"
    assert not Path(folder.file(lease.FILE)).exists()
    assert hold(folder) == []


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"started": -10.0}])
def test_a_lease_of_a_process_of_this_machine_that_has_ended_is_taken_over_at_once(
    folder: RunFolder, change: dict[str, Any]
) -> None:
    folder.save_json(lease.FILE, {"token": "theirs", **lease._process(), **change})
    assert hold(folder) == []


def test_of_two_commands_that_find_an_ended_lease_one_takes_it_over(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save_json(lease.FILE, {"token": "theirs", **lease._process(), "pid": 2**22 + 1})
    remove = lease._remove
    with ExitStack() as first:

        def late(uri: str, ended: dict[str, Any]) -> None:
            monkeypatch.setattr(lease, "_remove", remove)
            first.enter_context(lease.held(folder, print))
            remove(uri, ended)

        monkeypatch.setattr(lease, "_remove", late)
        with pytest.raises(OvssError, match="another command works in this run folder"):
            hold(folder)
    assert list(Path(folder.uri).iterdir()) == []


def test_a_killed_command_that_its_parent_has_not_waited_for_has_ended(folder: RunFolder) -> None:
    killed = psutil.Popen(["sleep", "1000"])
    try:
        of_killed = {**lease._process(), "pid": killed.pid, "started": lease._started(killed)}
        folder.save_json(lease.FILE, {"token": "theirs", **of_killed})
        with pytest.raises(OvssError, match=f"process {killed.pid}, since"):
            hold(folder)
    finally:
        killed.kill()
    while killed.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert hold(folder) == []
    killed.wait()


def test_a_step_of_the_clock_does_not_end_a_command(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    created, boot = psutil.Process.create_time, psutil.boot_time
    with lease.held(folder, print):
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
        with pytest.raises(OvssError, match="another command works in this run folder"):
            hold(folder)


def test_a_lease_that_could_not_be_written_leaves_no_file(folder: RunFolder) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OvssError, match=r"lease\.json: cannot be written"):
            hold(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not Path(folder.file(lease.FILE)).exists()


def test_a_lease_of_another_machine_is_taken_over_if_it_is_not_renewed(folder: RunFolder) -> None:
    folder.save_json(lease.FILE, ELSEWHERE)
    (said,) = hold(folder)
    assert "host node7, process 12" in said


def test_a_lease_of_another_machine_that_is_renewed_is_refused_whatever_its_clock_says(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save_json(lease.FILE, ELSEWHERE)
    monkeypatch.setattr(lease.time, "sleep", lambda s: folder.save_json(lease.FILE, {**ELSEWHERE, "renewed": "1"}))
    with pytest.raises(OvssError, match=r"host node7, process 12, .*last sign of life 1\. Wait until it ends"):
        hold(folder)


def test_a_half_written_lease_is_taken_over_only_after_the_wait(folder: RunFolder) -> None:
    folder.save_json("identity.json", {})
    Path(folder.file(lease.FILE)).write_text("{")
    hold(folder)


def test_a_lease_that_was_taken_over_ends_the_run_and_is_left_to_its_new_holder(folder: RunFolder) -> None:
    with lease.held(folder, print) as mine:
        mine.renew()
        mine.check()
        with folder.command(mine.kept):
            folder.save_json(lease.FILE, ELSEWHERE)
            folder.save_json("history.json", {"commands": [{"ended": "theirs"}]})
        with pytest.raises(OvssError, match="another command has taken over this run: host node7"):
            mine.check()
        assert folder.history() == [{"ended": "theirs"}]
    assert json.loads(Path(folder.file(lease.FILE)).read_text()) == ELSEWHERE


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OvssError, match=r"file/run/lease\.json: cannot be written: Not a directory"):
        hold(RunFolder(str(tmp_path / "file/run")))


def test_a_folder_behind_fsspec_has_a_lease_too() -> None:
    folder = RunFolder("memory://leases/run")
    with lease.held(folder, print), pytest.raises(OvssError, match="another command works in this run folder"):
        hold(folder)
    assert hold(folder) == []
