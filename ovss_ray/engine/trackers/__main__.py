"""The process of one tracker: `python -m ovss_ray.engine.trackers`. Its input and output are lines of JSON.

The first line of stdin has the fields `name`, `target` and `folder`. The next lines are {"log": values, "images":
number}. The last line is {"finish": true}. If stdin ends without this last line, the run was interrupted.

The lines of stdout have the fields `where`, `fault` (see Process) and `done`. In the last line, `done` is true.
"""

import hashlib
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ovss_ray import registry
from ovss_ray.engine import trackers
from ovss_ray.engine.trackers import ATTACHED, Tracked, Tracker
from ovss_ray.io import files
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder, digest

Message = Mapping[str, Any]
LINGER = 120.0
"""Maximum seconds from the end of stdin to the end of this process, even if the tracker hangs."""


class Delivery:
    """Connection to a tracker, and the latest fault. If connecting fails, the next call of `deliver` tries again."""

    def __init__(self, first: Message, replies: TextIO) -> None:
        self.first, self.replies = first, replies
        self.folder = RunFolder(first["folder"])
        self.tracker: Tracker | None = None
        self.where, self.fault = "", ""

    def deliver(self, message: Message) -> bool:
        """Pass a message to the tracker. Return False if that failed."""
        try:
            if self.tracker is None:
                make = registry.find(trackers.PACKAGE, self.first["name"], "Tracker")
                self.tracker = make(self.first["target"], facts(self.folder))
                self.where = self.tracker.where
            if "log" in message:
                self.tracker.log(message["log"], message["images"])
            elif "finish" in message:
                self._finish(self.tracker)
            elif "closed" in message:
                self.tracker.close(False)
        except Exception as failure:  # noqa: BLE001 - libraries of trackers raise anything; it must not end a run
            words = trackers.plain(" ".join(str(failure).split()))[:300]  # cut later: half an address has no @
            self.fault = f"values are missing there: {type(failure).__name__}: {words}"
            return False
        return True

    def reply(self, done: bool = False) -> None:
        """Send the fields `where`, `fault` and `done` to the process that evaluates the run, as a line of JSON.

        `done`: True in the last line that this process sends.
        """
        answer = {"where": self.where, "fault": self.fault, "done": done}
        self.replies.write(json.dumps(answer) + "\n")
        self.replies.flush()

    def _finish(self, tracker: Tracker) -> None:
        report = Report.load(self.folder.uri)
        with tempfile.TemporaryDirectory() as local:
            attachments = []
            for name in ATTACHED:
                if files.exists(self.folder.file(name)):
                    attachments.append(Path(local, name))
                    attachments[-1].write_bytes(files.read(self.folder.file(name)))
            tracker.finish(report, trackers.final(report), attachments)
            tracker.close(True)  # some send files only now


def facts(folder: RunFolder) -> Tracked:
    """Return the facts about the run in a folder."""
    identity = digest(folder.json("identity.json"))
    settings = {"config": folder.config().model_dump(mode="json"), **folder.json("environment.json")}
    return Tracked(
        name=folder.uri.rstrip("/").rpartition("/")[2],
        uid=hashlib.sha256(f"{folder.uri}\n{identity}".encode()).hexdigest()[:12],
        folder=folder.uri,
        identity=identity,
        settings=dict(_flat(settings)),
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested mappings and lists with their paths, such as "config.pools.0.batch"."""
    if isinstance(value, Mapping | list) and value:
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, of in entries:
            yield from _flat(of, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _read(messages: "queue.SimpleQueue[Message]") -> None:
    """Put the messages of stdin into a queue. End the process LINGER seconds after the end of stdin."""
    for line in sys.stdin:
        messages.put(json.loads(line))
    messages.put({"closed": True})
    time.sleep(LINGER)
    os._exit(1)


def _waiting(messages: "queue.SimpleQueue[Message]") -> list[Message]:
    """Return all messages that have arrived. If there are none, wait for the first."""
    taken = [messages.get()]
    while not messages.empty():
        taken.append(messages.get())
    return taken


def main() -> None:
    """Pass messages to the tracker until the run has ended."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries of trackers print
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(messages,), daemon=True).start()
    delivery = Delivery(messages.get(), replies)
    ok, ended = delivery.deliver({}), False
    delivery.reply()
    while not ended:
        taken = _waiting(messages)
        logs = [message for message in taken if "log" in message]
        for message in taken:
            if ok or "log" not in message or message is logs[-1]:  # a server that is back gets the latest values
                ok = delivery.deliver(message)
                ended = ended or "finish" in message or "closed" in message
                if ended:
                    break
        delivery.reply(done=ended)


if __name__ == "__main__":
    main()
