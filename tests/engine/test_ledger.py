"""The ledger: which images are suspect after a death, which are given up, and when a run is to stop."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.util import metrics

from ovss_ray.engine import progress
from ovss_ray.engine.ledger import Ledger, Names, explain
from ovss_ray.engine.pools.gauges import KINDS, PREFIX
from ovss_ray.engine.provisional import Value
from ovss_ray.runs.folder import RunFolder

SEGFAULT = """Fatal Python error: Segmentation fault

Current thread 0x00007f0a (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/stage.py", line 40 in __call__
  File "/home/me/ovss_ray/pipeline/execution.py", line 79 in _settle
"""
TIMEOUT = """Timeout (0:10:00)!
Thread 0x00007f3b (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait

Thread 0x00007f0a (most recent call first):
  File "/home/me/sam.py", line 7 in grow
  File "/home/me/ovss_ray/pipeline/execution.py", line 79 in _settle
"""


def ledger(max_deaths: int = 10) -> Ledger:
    return Ledger(images=8, max_deaths=max_deaths)


def test_only_what_the_dead_worker_had_in_hand_is_suspect() -> None:
    notes = ledger()
    for worker in ("a", "b"):
        assert notes.start(worker, 0, "node", "") == ""
    notes.begin("a", ["1", "2"])
    notes.begin("b", ["3", "4"])
    notes.start("a", 0, "node", "")
    assert notes.begin("a", ["1", "2"]) == ("", {"1": "", "2": ""})
    assert notes.begin("b", ["5", "6"]) == ("", {})
    assert notes.status().deaths == 1
    assert notes.status().redone == 0  # eight are to be done, and eight were begun
    assert notes.status().busy == {"a": ("1", "2"), "b": ("5", "6")}


def test_an_image_that_was_finished_is_not_suspect() -> None:
    notes = ledger()
    notes.start("a", 0, "node", "")
    notes.begin("a", ["1"])
    notes.end("a")
    notes.start("a", 0, "node", SEGFAULT)
    assert notes.begin("a", ["1"]) == ("", {})


def die(notes: Ledger, images: list[str], evidence: str, again: bool = False) -> None:
    notes.begin("a", images, again)
    notes.start("a", 0, "node", evidence)


def test_three_deaths_of_unknown_cause_or_two_of_a_known_one_are_enough() -> None:
    for evidence, enough in (("", 3), (SEGFAULT, 2)):
        notes = ledger()
        notes.start("a", 0, "node", "")
        for death in range(enough):
            assert notes.begin("a", ["1"])[1].get("1", "") == "", death
            die(notes, ["1"], evidence)
        assert notes.begin("a", ["1"])[1]["1"].startswith(f"killed its worker {enough} times: ")


def test_batch_mates_of_a_killer_are_not_given_up() -> None:
    notes = ledger()
    notes.start("a", 0, "node", "")
    die(notes, ["1", "2", "3"], TIMEOUT)
    die(notes, ["2"], TIMEOUT, again=True)
    suspects = notes.begin("a", ["1", "2", "3"])[1]
    assert (suspects["1"], suspects["3"]) == ("", "")
    assert suspects["2"] == "killed its worker 2 times: it took longer than the deadline of 0:10:00 (sam.py, line 7)"


def test_deaths_in_a_row_stop_the_run_unless_an_image_is_finished_in_between() -> None:
    notes = ledger(max_deaths=2)
    notes.start("a", 0, "node", "")
    for image in "12345":  # a node that dies now and then does not stop a long run
        die(notes, [image], "")
        stop, _ = notes.begin("a", [image])
        assert stop == ""
        notes.end("a")
    for image in "67":
        die(notes, [image], "")
    notes.end("a", good=False)  # nothing but images that were given up
    assert "3 workers died without an image finished" in notes.start("a", 0, "node", "")
    assert "max_deaths (2)" in notes.begin("a", ["8"])[0]


def test_deaths_while_starting_are_said_to_be_such() -> None:
    notes = ledger(max_deaths=0)
    notes.start("a", 0, "node", "")
    assert "while it was starting" in notes.start("a", 0, "node", "")


def test_images_begun_again_are_counted_in_the_pool_that_lost_most() -> None:
    notes = Ledger(images=2, max_deaths=10)
    for worker, pool in (("a", 0), ("b", 1)):
        notes.start(worker, pool, "node", "")
        notes.begin(worker, ["1", "2"])
    notes.start("b", 1, "node", "")
    notes.begin("b", ["1", "2"])
    for image in "12":
        notes.begin("b", [image], again=True)
    assert notes.status().redone == 2


def test_a_worker_that_is_not_started_anew_leaves_its_suspects_to_the_next_round() -> None:
    notes = ledger(max_deaths=1)
    for worker in ("a", "b"):
        notes.start(worker, 0, "node", "")
        notes.begin(worker, [worker.upper()])
    notes.bury("a", SEGFAULT)
    notes.bury("a", SEGFAULT)  # no worker dies twice
    notes.forget()
    assert notes.status().deaths == 1
    assert notes.start("c", 0, "node", "") == ""
    assert notes.begin("c", ["A", "B"]) == ("", {"A": ""})
    notes.bury("c", "")
    assert notes.start("d", 0, "node", "").startswith("2 workers died")


def test_a_ledger_that_was_itself_started_anew_goes_on() -> None:
    notes = ledger()
    assert notes.begin("a", ["1"]) == ("", {})
    notes.end("a")
    assert notes.status().nodes == {}
    assert notes.handles() == []


def test_what_faulthandler_wrote_is_put_into_a_few_words() -> None:
    assert explain(SEGFAULT) == "Segmentation fault (__init__.py, line 519)"
    assert explain(TIMEOUT) == "it took longer than the deadline of 0:10:00 (sam.py, line 7)"
    assert explain("RuntimeError: CUDA error: device-side assert\n\n") == "RuntimeError: CUDA error: device-side assert"
    assert explain("\n") == ""


def test_embedded_names_are_counted_over_several_calls_and_late_messages_are_ignored() -> None:
    ledger = Ledger(images=8, max_deaths=3)
    clock = iter(range(2, 100, 2))
    sent = SimpleNamespace(add_names=SimpleNamespace(remote=ledger.add_names))
    ledger.start_names(6)
    listener = Names(sent, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovss_ray.engine.ledger.time.monotonic", lambda: next(clock))
        states = []
        for done, names in [(1.5, 4), (4.0, 4), (3.0, 5)]:
            listener(done, names)
            states.append((ledger.status().named, ledger.status().names))
    assert states == [(1, 6), (4, 6), (7, 9)]
    ledger.end_names()
    ledger.add_names(5, 9)
    assert ledger.status().names == 0


def test_the_values_of_a_run_are_gauges_of_the_ledger_and_counters_only_grow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exported: dict[tuple[str, ...], float] = {}

    class Metric:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.tag_keys
            exported[self.name, *tags.values()] = value

        def inc(self, value: float, tags: dict[str, str]) -> None:
            self.set(exported.get((self.name, *tags.values()), 0.0) + value, tags)

    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(metrics, kind, Metric)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    notes = ledger()
    notes.start("a", 0, "node", "")
    notes.start("a", 0, "node", "")
    notes.begin("a", ["1", "2"])
    listener = progress.Exported(progress.Counts(), RunFolder(str(tmp_path / "mine")))
    listener.changed()  # before the first round: nobody listens yet
    listener.ledger = SimpleNamespace(publish=SimpleNamespace(remote=notes.publish))
    listener.total, listener.done, listener.failed = 8, 3, 1
    listener.sums.seconds["decode"] = 1.5
    monkeypatch.setattr(listener.sums, "values", lambda: [Value("camvid", "miou", "mIoU", 40.0, 2.0)])
    for done in (3, 5):
        listener.done = done
        listener.changed()
    assert exported == {
        ("ovss_run_images", "mine"): 8,
        ("ovss_run_images_done", "mine"): 5,
        ("ovss_run_images_finished", "mine", "failed"): 1,
        ("ovss_run_images_finished", "mine", "good"): 4,
        ("ovss_run_images_in_progress", "mine"): 2,
        ("ovss_run_stage_seconds", "mine", "decode"): 1.5,
        ("ovss_run_workers", "mine"): 1,
        ("ovss_run_deaths", "mine"): 1,
        ("ovss_run_provisional", "mine", "camvid", "miou"): 40.0,
        ("ovss_run_provisional_half", "mine", "camvid", "miou"): 2.0,
    }
    assert {name.removeprefix(PREFIX) for name, *_ in exported} == KINDS.keys()
