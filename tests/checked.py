"""A check as `ovss check` does it: its findings are printed, and their number is returned."""

from ovss_ray.cli.reports import show_findings
from ovss_ray.dataprep import check


def checked(name: str, root: str | None, split: str | None, limit: int | None, full: bool, workers: int) -> int:
    findings = check.run(name, root, split, limit, full, workers)
    show_findings(findings)
    return findings.number
