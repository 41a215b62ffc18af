"""Faults of YAML files in plain words."""

import pytest

from ovss_ray.config import loading
from ovss_ray.errors import OvssError

GOOD = {"stages": [{"use": "san"}]}


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ({"pools": [{**GOOD, "workers": "x"}]}, ["pools.0.workers: expected a whole number or a list or 'auto'"]),
        ({"pools": [{**GOOD, "workers": [1, "x"]}]}, ["pools.0.workers.1: expected a whole number, found 'x'"]),
        ({"pools": [{**GOOD, "batch": 0}]}, ["pools.0.batch: expected a number from 1 or 'auto', found 0"]),
        ({"pools": [{**GOOD, "wrokers": 1}]}, ["pools.0.wrokers: unknown. Did you mean 'workers'?"]),
        ({"pools": [{"workers": 1}]}, ["pools.0.stages: Field required"]),
        ({"pools": [GOOD], "benchmarks": "camvid"}, ["benchmarks: expected a list, found 'camvid'"]),
        ({"pools": [GOOD], "deadline": 0}, ["deadline: expected a number above 0, found 0"]),
        ({"pools": [GOOD], "check": "maybe"}, ["check: expected true or false, found 'maybe'"]),
        ({"pools": [GOOD], "limits": {"secnds": 1}}, ["limits.secnds: unknown. Did you mean 'seconds'?"]),
        ({"pools": [GOOD], "ids": 3, "limit": "a"}, ["ids: expected text, found 3", "limit: expected a whole number"]),
        (
            {
                "pools": [
                    {"stages": [{"use": "predictions", "options": {"path": "a", "none": "x", "category_ids": ["b"]}}]}
                ]
            },
            [
                "pools.0.stages.0.options.none: expected a whole number or a list, found 'x'",
                "pools.0.stages.0.options.category_ids.0: expected a whole number, found 'b'",
            ],
        ),
    ],
)
def test_each_fault_has_its_place_what_is_expected_and_what_was_found(
    raw: dict[str, object], messages: list[str]
) -> None:
    with pytest.raises(OvssError) as caught:
        loading.validate(raw, "run.yaml")
    said = str(caught.value).removeprefix("run.yaml: ").split("; ")
    assert len(said) == len(messages), said
    for fault, message in zip(said, messages, strict=True):
        assert fault.startswith(message)
