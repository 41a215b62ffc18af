"""docs/own_data.md, followed to the letter on the samples of CWFID."""

import re
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.cli import app
from ovss_ray.io import files
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs/own_data.md").read_text("utf-8")


def block(language: str) -> str:
    """The one block of the document that is marked with a language, or with none."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (found,) = (content for marked, content in blocks if marked == language)
    return found


@pytest.fixture
def field(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documented tree, of links to the samples: their masks and annotations in YAML lie there too."""
    (tmp_path / "field").mkdir()
    for kind in ("images", "annotations", "masks"):
        (tmp_path / "field" / kind).symlink_to(shared / "data/real/cwfid" / kind)
    (tmp_path / "field/carrots.yaml").write_text(block("yaml"), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "field"


def test_the_files_that_the_document_names_are_there(field: Path) -> None:
    named = [line.split()[0] for line in block("").splitlines()]
    assert len(named) == 5
    assert all(Path(file).is_file() for file in named)


def test_label_maps_are_those_of_the_reader_written_for_this_data_set(field: Path, shared: Path) -> None:
    ours, theirs = catalog.load("folder:field/carrots.yaml"), catalog.load("cwfid")
    assert ours.vocabulary == theirs.vocabulary
    found = {item.image_id: item for item in ours.items("", ours.split)}
    known = {item.image_id: item for item in theirs.items(str(shared / "data/real"), "train")}
    assert sorted(found) == sorted(known) == ["002", "005", "006", "007", "008", "011"]
    seen = set()
    for image_id, item in found.items():
        truth = ours.truth(item, files.read(item.truth))
        assert truth.dtype == np.uint16
        assert np.array_equal(truth, theirs.truth(known[image_id], files.read(known[image_id].truth)))
        assert Path(item.image).samefile(known[image_id].image)
        seen |= set(np.unique(truth).tolist())
    assert seen == {0, 1, 2}


def test_the_documented_check_finds_no_fault_and_names_one_that_is_there(
    field: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(line for line in block("sh").splitlines() if line.startswith("ovss check "))
    assert ended(command) == 0, capsys.readouterr().out
    text = (field / "carrots.yaml").read_text("utf-8")
    (field / "wrong.yaml").write_text(text.replace("[255, 0, 0]", "[254, 0, 0]"), "utf-8")
    assert ended(command.replace("carrots.yaml", "wrong.yaml")) == 1
    assert "1 colours not in `colours`, such as [255, 0, 0]" in capsys.readouterr().out


def ended(command: str) -> object:
    """The exit status of a command `ovss …`."""
    with pytest.raises(SystemExit) as done:
        app.main(command.split()[1:])
    return done.value.code
