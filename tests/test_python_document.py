"""docs/python.md and docs/quick_start.md: snippets and commands are run; and commands of other pages on their runs."""

import re
import shlex
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import ovss_ray
from ovss_ray.cli.app import app
from tests.in_process import pools
from tests.paths import ROOT
from tests.test_documents import blocks

DOCUMENT = (ROOT / "docs/python.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_the_table_has_every_name() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)) == sorted(ovss_ray.__all__)


@pytest.mark.slow
def test_every_snippet_runs_and_prints_what_it_says(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def of_quick_start() -> list[str]:
    """The commands of the quick start that need no data, weights or GPU."""
    page = (ROOT / "docs/quick_start.md").read_text("utf-8")
    return re.findall(r"^uv run (ovss .*)$", page[page.index("## 2.") : page.index("## 5.")], re.MULTILINE)


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    """The commands of the quick start → their results, in a new folder."""
    with pytest.MonkeyPatch.context() as patch, pools():
        patch.chdir(tmp_path_factory.mktemp("quick_start"))
        patch.setattr(webbrowser, "open", lambda address: True)
        yield {command: typed(command) for command in of_quick_start()}


def typed(command: str, other: Mapping[str, str] = MappingProxyType({})) -> Result:
    """The result of a command; `other`: words of the command → words in their place."""
    return CliRunner().invoke(app, [other.get(word, word) for word in shlex.split(command)[1:]])


@pytest.mark.slow
def test_the_commands_of_the_quick_start_do_what_it_says(quick_start: dict[str, Result]) -> None:
    assert [done.exit_code for done in quick_start.values()] == [0] * 5, [done.output for done in quick_start.values()]
    first, report, _, truth, compared = (done.output for done in quick_start.values())
    assert "first 8 only" in first
    assert "striped" in report, "the values of each class"
    assert Path("runs/first/report.html").stat().st_size > 10_000
    assert "100.00" in truth
    assert "runs/truth" in compared


@pytest.mark.slow
def test_commands_on_finished_runs_are_carried_out_as_the_documents_have_them(quick_start: dict[str, Result]) -> None:
    commands = on_finished_runs()
    assert len(commands) >= 12
    classes = {"person,car": "wall,water", "vehicle=car,truck,bus": "vehicle=wall,water,grass"}
    for command in commands:
        done = typed(command, {"runs/A": "runs/first", "runs/B": "runs/truth", **classes})
        assert done.exit_code == 0, f"{command}: {done.output}"
    for written in ("a.csv", "a.md", "a.tex", "a.json", "compare.html"):
        assert Path(written).is_file(), written


def on_finished_runs() -> list[str]:
    """The commands of the pages on reports, runs and statistics that read runs/A."""
    lines = [line for name in ("reports", "runs", "statistics") for line in shell_lines(ROOT / f"docs/{name}.md")]
    return [line for line in lines if re.match(r"ovss (report|compare|leaderboard) runs/A", line)]


def shell_lines(document: Path) -> list[str]:
    """The lines of a document's shell blocks, without comments."""
    return [line.partition(" #")[0].strip() for block in blocks(document, "sh") for line in block.splitlines()]
