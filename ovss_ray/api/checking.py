"""Check the data of a benchmark from Python: `ovss_ray.check`."""

from pathlib import Path

from ovss_ray.errors import OvssError
from ovss_ray.structures.findings import Findings


def check(
    benchmark: str,
    data_root: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    full: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Findings:
    """Check the photographs and labels of a benchmark before a run. Return the faults.

    `data_root`: folder of the data sets; default $OVSS_DATA. `split`: name of the split to check, such as "val"; by
    default, the benchmark's default split. `limit`: number of images to check, the first by id; by default, all.
    `full`: check the pixels of all images instead of a sample. `workers`: number of processes; by default, one per
    processor. `progress`: show the progress on stderr.

    Worker processes import the calling script. Guard the script by `if __name__ == "__main__":`, or pass workers=1.
    Raises OvssError for an unknown benchmark or a missing data root. Also raises OvssError if `limit` or `workers` is
    below 1.

    Example: `check("camvid", "data").number` is 0 if there is no fault.
    """
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise OvssError(f"{name}: expected a whole number of at least 1, found {value}")
    from ovss_ray.dataprep import check as checking

    root = None if data_root is None else str(data_root)
    return checking.run(benchmark, root, split, limit, full, workers, progress)
