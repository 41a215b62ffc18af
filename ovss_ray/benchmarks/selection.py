"""Selection of the images that a run evaluates."""

import hashlib
from dataclasses import dataclass
from itertools import islice

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item, Items, gathered
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.sorted_rows import Rows


@dataclass(frozen=True)
class Selection:
    """Images of a benchmark that a run evaluates. The selection is part of the report and of the run's digest."""

    split: str
    ids: tuple[str, ...] | None = None
    limit: int | None = None

    @classmethod
    def of(
        cls, benchmark: Benchmark, split: str | None = None, ids: str | None = None, limit: int | None = None
    ) -> "Selection":
        """Return the selection for a config's options.

        `ids`: file with one image id per line; a line that begins with # is a comment. Raises OvssError if the file
        cannot be read or has no ids.
        """
        if ids is None:
            return cls(split or benchmark.split, None, limit)
        lines = (line.strip() for line in files.read(ids).decode("utf-8-sig", "replace").splitlines())
        listed = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
        if not listed:
            raise OvssError(f"{ids}: the file has no image ids. Write one per line")
        return cls(split or benchmark.split, listed, limit)

    def stamp(self) -> dict[str, object]:
        """Return the selection as a dict for JSON. Instead of the ids, the dict has their number and their digest."""
        digest = hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()[:12] if self.ids else None
        return {
            "split": self.split,
            "ids": digest and {"count": len(self.ids or ()), "sha256": digest},
            "limit": self.limit,
        }

    def take(self, items: Items, name: str) -> Rows[Item]:
        """Return the selected items, sorted by image_id.

        Raises OvssError if an id is unknown, or occurs more than once in the data set.
        """
        listed = gathered(items)
        if repeated := sum(times > 1 for _, times in listed.counted("image_id")):
            raise OvssError(
                f"{name}, split {self.split}: {repeated} image ids occur more than once in the data set. Change the "
                "data set, so that each image has a different id"
            )
        unknown = set(self.ids or ()).difference(item.image_id for item in listed)
        if self.ids is not None and unknown:
            example = next((item.image_id for item in listed), "")
            raise OvssError(
                f"{name}, split {self.split}: {len(unknown)} of {len(self.ids)} image ids not found, "
                f"such as {next(image for image in self.ids if image in unknown)!r}; existing ids look like "
                f"{example!r}. Correct the file in the option `ids`, or select the split of these images"
            )
        wanted = set(self.ids or ())
        every = listed.in_order("image_id")
        return gathered(islice((item for item in every if not wanted or item.image_id in wanted), self.limit))
