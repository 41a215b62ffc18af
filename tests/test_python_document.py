"""docs/python.md: every snippet is run, in its order, in one folder."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ovss_ray
from tests.paths import ROOT

pytestmark = pytest.mark.ray
DOCUMENT = (ROOT / "docs/python.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_the_table_has_every_name() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)) == sorted(ovss_ray.__all__)


@pytest.mark.slow
def test_every_snippet_runs_and_prints_what_it_says(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(SNIPPETS) == DOCUMENT.count("```") // 2 == 8
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save("street.jpg")
    names: dict[str, object] = {}
    printed = []
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/python.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    evaluated, _, _, read, compared, checked, segmented, failed = printed
    assert re.fullmatch(r"mIoU \d\d\.\d of 4 images\n", evaluated)
    assert len(read.splitlines()) == 3, "three classes, and nothing that is lacking"
    assert [line.split()[0] for line in compared.splitlines()] == ["runs/batch", "runs/oracle", "san_tiny", "oracle"]
    assert "scenes:seen, split validation: 4 images" in checked
    assert sum(map(int, re.findall(r": (\d+)", segmented))) == 60 * 80
    assert "'san_tyny'. Did you mean 'san_tiny'?" in failed
