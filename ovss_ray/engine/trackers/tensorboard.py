"""TensorBoard: an event file in a folder. Run `tensorboard --logdir DIR` to show the file.

`--track tensorboard` writes into the folder `tensorboard` of the run. `--track tensorboard:DIR` writes into DIR/NAME,
where NAME is the last part of the run's folder.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovss_ray.engine.trackers import Tracked
from ovss_ray.io import files
from ovss_ray.reports.documents.exports import tables
from ovss_ray.reports.documents.values import class_headings
from ovss_ray.reports.schema import Report

PACKAGE = "tensorboard"
INSTALL = "pip install 'ovss_ray[tensorboard]'"


class Tracker:
    """Event file of a run.

    Values are written as scalars. The facts about the run are written as a text. The table of classes of each benchmark
    is also written as a text. The files report.json and report.html are not attached.
    """

    def __init__(self, target: str, run: Tracked) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.where = files.join(files.absolute(target), run.name) if target else files.join(run.folder, "tensorboard")
        self._writer = EventFileWriter(self.where)
        self._images = 0
        facts = [("run", run.folder), ("identity", run.identity), *((key, str(of)) for key, of in run.settings.items())]
        self._text("run", tables.markdown_table(("key", "value"), facts))

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Write values as scalars whose step is the number of images."""
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        self._images = images
        for name, value in values.items():
            self._write(scalar_pb(name, value))
        self._writer.flush()

    def finish(self, report: Report, values: Mapping[str, float], attachments: Sequence[Path]) -> None:
        """Write the final values. For each benchmark, also write a table with the values of each class."""
        scored = sum(benchmark.images.scored for benchmark in report.benchmarks.values())
        self.log(values, max(self._images, scored))
        for name, benchmark in report.benchmarks.items():
            headings = class_headings(benchmark)
            rows = [
                (score.name, *("–" if (value := getattr(score, key)) is None else f"{value:g}" for key in headings))
                for score in benchmark.classes
            ]
            self._text(f"classes/{files.plain(name)}", tables.markdown_table(("class", *headings.values()), rows))

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _text(self, name: str, markdown: str) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write(text_pb(name, markdown))

    def _write(self, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=self._images, summary=summary))
