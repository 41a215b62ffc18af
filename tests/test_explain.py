"""Faults of YAML files in plain words."""

import pytest

from ovss_ray import config
from ovss_ray.errors import OvssError

GOOD = {"stages": [{"use": "san"}]}


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ({"pools": [{**GOOD, "workers": "x"}]}, ["pools.0.workers: a whole number or a list or 'auto' is expected"]),
        ({"pools": [{**GOOD, "workers": [1, "x"]}]}, ["pools.0.workers.1: a whole number is expected, and found 'x'"]),
        ({"pools": [{**GOOD, "batch": 0}]}, ["pools.0.batch: a number from 1 or 'auto' is expected, and found 0"]),
        ({"pools": [{**GOOD, "wrokers": 1}]}, ["pools.0.wrokers: unknown. Did you mean 'workers'?"]),
        ({"pools": [{"workers": 1}]}, ["pools.0.stages: Field required"]),
        ({"pools": [GOOD], "benchmarks": "camvid"}, ["benchmarks: a list is expected, and found 'camvid'"]),
        ({"pools": [GOOD], "deadline": 0}, ["deadline: a number above 0 is expected, and found 0"]),
        ({"pools": [GOOD], "check": "maybe"}, ["check: true or false is expected, and found 'maybe'"]),
        ({"pools": [GOOD], "limits": {"secnds": 1}}, ["limits.secnds: unknown. Did you mean 'seconds'?"]),
        ({"pools": [GOOD], "ids": 3, "limit": "a"}, ["ids: text is expected, and found 3", "limit: a whole number"]),
        (
            {
                "pools": [
                    {"stages": [{"use": "predictions", "options": {"path": "a", "none": "x", "category_ids": ["b"]}}]}
                ]
            },
            [
                "pools.0.stages.0.options.none: a whole number or a list is expected, and found 'x'",
                "pools.0.stages.0.options.category_ids.0: a whole number is expected, and found 'b'",
            ],
        ),
    ],
)
def test_each_fault_has_its_place_what_is_expected_and_what_was_found(
    raw: dict[str, object], messages: list[str]
) -> None:
    with pytest.raises(OvssError) as caught:
        config.check(raw, "run.yaml")
    said = str(caught.value).removeprefix("run.yaml: ").split("; ")
    assert len(said) == len(messages), said
    for fault, message in zip(said, messages, strict=True):
        assert fault.startswith(message)
