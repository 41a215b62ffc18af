"""Palettes of label files that disagree with one another."""

import io
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.config import loading as configs
from ovss_ray.dataprep import check
from ovss_ray.errors import OvssError
from ovss_ray.io.images import palettes
from ovss_ray.runs.plan import plan_run
from tests.checked import checked

MAP = np.array([[0, 0, 1, 1], [2, 2, 1, 0]], np.uint8).repeat(6, 0).repeat(6, 1)
COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))


def saved(order: tuple[int, ...], kind: str = "PNG", pixels: np.ndarray = MAP) -> bytes:
    """A label map whose palette has the colours in some order, and whose pixels keep their colours."""
    picture = Image.fromarray(np.argsort(order).astype(np.uint8)[pixels], "P")
    picture.putpalette([part for index in order for part in COLOURS[index]])
    sink = io.BytesIO()
    picture.save(sink, kind)
    return sink.getvalue()


def faults(*content: bytes) -> list[str]:
    read = (palettes.read(data, f"{number}.png") for number, data in enumerate(content))
    return [str(fault) for fault in palettes.verdict(shown for shown in read if shown)]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_colours_that_each_file_numbers_anew_are_a_fault(kind: str) -> None:
    (fault,) = faults(saved((0, 1, 2), kind), saved((0, 2, 1), kind))
    assert "the colour [0, 128, 0] is index 2 in 0.png, but index 1 in 1.png" in fault
    assert "`encoding: rgb`" in fault


def test_a_file_with_fewer_colours_may_number_them_anew_too() -> None:
    only_red = Image.new("P", (4, 4), 0)
    only_red.putpalette(COLOURS[1])
    sink = io.BytesIO()
    only_red.save(sink, "PNG")
    assert "index 1 in 0.png, but index 0 in 1.png" in faults(saved((0, 1, 2)), sink.getvalue())[0]


def test_palettes_that_agree_are_never_filled_or_show_other_colours_are_no_fault() -> None:
    empty = []
    for value in (0, 1, 2):
        picture = Image.new("P", (4, 4), value)
        picture.putpalette([0] * 768)
        sink = io.BytesIO()
        picture.save(sink, "PNG")
        empty.append(sink.getvalue())
    assert faults(*empty) == []
    assert faults(saved((0, 1, 2)), saved((0, 1, 2), pixels=MAP * 0)) == []
    random = Image.fromarray(MAP, "P")
    random.putpalette([9, 8, 7, 6, 5, 4, 3, 2, 1])
    sink = io.BytesIO()
    random.save(sink, "PNG")
    assert faults(saved((0, 1, 2)), sink.getvalue()) == []


def asked(folder: Path) -> dict[str, object]:
    pools = [{"stages": [{"use": "oracle"}]}]
    return {"benchmarks": [f"folder:{folder}/b.yaml"], "data_root": str(folder), "pools": pools}


@pytest.mark.parametrize(("more", "expected"), [("", 1), ("encoding: rgb\ncolours: {a: black, b: red, c: green}\n", 0)])
def test_the_check_names_them_and_no_run_starts_unless_the_colours_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, expected: int
) -> None:
    for number, order in enumerate([(0, 1, 2), (1, 2, 0)]):
        Image.fromarray(np.array(COLOURS, np.uint8)[MAP]).save(tmp_path / f"{number}.jpg")
        (tmp_path / f"{number}.png").write_bytes(saved(order))
    for name, colour in zip(("black", "red", "green"), COLOURS, strict=True):
        more = more.replace(name, str(list(colour)))
    (tmp_path / "b.yaml").write_text(f"images: '*.jpg'\nlabels: '*.png'\nclasses: [a, b, c]\n{more}")
    request = plan_run(configs.validate(asked(tmp_path), "test"), str(tmp_path / "run"))
    with pytest.raises(OvssError, match="`encoding: rgb`") if expected else nullcontext():
        list(check.ahead(request.benchmarks, request.manifests))
    assert checked(f"folder:{tmp_path}/b.yaml", str(tmp_path), None, None, False, 1) == expected
    assert ("renumbers the colours of each file" in capsys.readouterr().out) == bool(expected)
