"""Whatever is sent, the service answers as it says it does: never a 500, no crash, and no memory that is kept."""

import asyncio
import json
import subprocess
import sys
import zlib
from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ovss_ray.serve.http.guard import digest
from tests.paths import ROOT
from tests.serve.bombs import TAKEN, chunk, png
from tests.serve.bright import service
from tests.serve.fuzz import PATHS, ask
from tests.serve.http.test_metrics import watched

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
schema = schemathesis.openapi.from_asgi(
    "/v1/openapi.json", watched(key=digest("word")), headers={"Authorization": "Bearer word"}
)


def of_its_own(module: str, *arguments: str) -> dict[str, Any]:
    """What a module prints that runs in a process of its own: which has not crashed."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


@schema.parametrize()
@hypothesis.settings(
    max_examples=50, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True
)
def test_answers_are_those_of_the_openapi_document(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS, headers={"Authorization": "Bearer word"})


@pytest.mark.slow
def test_five_thousand_damaged_images_and_forms_are_refused_or_answered_and_nothing_is_kept() -> None:
    told = of_its_own("tests.serve.fuzz", "5000")
    statuses: Counter[str] = Counter()
    for name, many in told["answered"].items():
        statuses[name.split()[1]] += many
    assert statuses.total() >= 5000
    assert min(statuses[one] for one in ("200", "400", "413", "415", "422")) > 50, statuses
    assert told["after"] < 1.1 * told["before"]


@pytest.mark.slow
def test_bombs_are_refused_before_they_are_decoded() -> None:
    told = of_its_own("tests.serve.bombs")
    status, peak = told.pop(TAKEN)
    assert (status, peak > 20) == (200, True)
    for name, (status, peak) in told.items():
        assert status in (413, 415, 422), name
        assert peak < 200, name


def test_a_palette_that_is_not_there_is_a_damaged_image() -> None:
    """Found by the above: Pillow asserts that there is one."""
    file = png(4, 4, colour=3, extra=chunk(b"tRNS\0"), data=zlib.compress(bytes(20)))
    status, answer = asyncio.run(ask(service(), "/v1/segment", PATHS["/v1/segment"], b"", file))
    assert (status, "damaged" in json.loads(answer)["detail"]) == (422, True)
