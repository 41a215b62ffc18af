"""Pages of runs in Chromium: over real photographs, and over failed, partial and large runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from typer.testing import CliRunner

from ovss_ray.cli.app import app
from ovss_ray.runs.folder import RunFolder
from tests.reports import test_report
from tests.reports.documents import in_process
from tests.serve.http.browsing import visiting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> RunFolder:
    """A finished run of the 101 photographs of CamVid."""
    run = in_process.evaluate(tmp_path_factory.mktemp("runs") / "coarse", shared / "data/real")
    write(run)
    return run


def write(run: RunFolder) -> Path:
    done = CliRunner().invoke(app, ["report", run.uri, "--html"])
    assert done.exit_code == 0, done.output
    return Path(run.uri) / "report.html"


@contextmanager
def visited(browser: Browser, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Page]:
    """A page that is open: no error in its console, no request but for itself, and no serious finding of axe."""
    viewport = {"width": width, "height": 800}
    with visiting(browser, file.as_uri(), viewport=viewport, color_scheme=scheme) as page:
        yield page
        found = Axe().run(page).response["violations"]
        assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] != "minor"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"


def column(page: Page, table: str, number: int) -> list[float]:
    texts = page.locator(f"#{table} tbody tr:visible").locator(f"td:nth-child({number})").all_inner_texts()
    return [float(text) for text in texts if re.fullmatch(r"[\d.]+", text)]


def test_tables_are_sorted_and_filtered_by_keyboard(browser: Browser, photographs: RunFolder) -> None:
    file = Path(photographs.uri) / "report.html"
    assert file.stat().st_size < 8_000_000
    with visited(browser, file) as page:
        heading = page.locator("#benchmark-0-classes thead th").nth(1)
        heading.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(heading).to_have_attribute("aria-sort", "descending")
        values = column(page, "benchmark-0-classes", 2)
        assert len(values) == 11
        assert values == sorted(values, reverse=True)
        page.keyboard.press("Space")
        expect(heading).to_have_attribute("aria-sort", "ascending")
        assert column(page, "benchmark-0-classes", 2) == values[::-1]
        page.get_by_label("Filter classes").press_sequentially("P")
        expect(page.locator('[data-counts="benchmark-0-classes"]')).to_have_text("3 of 11 rows")
        assert len(column(page, "benchmark-0-classes", 2)) == 3


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_gallery_shows_images_by_class_and_confusion_with_a_slider_between_layers(
    width: int, scheme: str, browser: Browser, photographs: RunFolder
) -> None:
    with visited(browser, Path(photographs.uri) / "report.html", width, scheme) as page:
        cards, picks = page.locator(".card"), page.locator("[data-picks]")
        expect(cards).to_have_count(24)
        page.get_by_role("button", name="Show more images").click()
        expect(cards).to_have_count(48)
        worst, second = cards.nth(0).inner_text(), cards.nth(1).inner_text().split()[0]
        picks.select_option("highest mIoU first")
        expect(cards.nth(0)).not_to_have_text(worst)
        picks.select_option(label="pavement predicted as road")
        expect(cards).to_have_count(3)
        page.locator("[data-classes]").select_option("pole")
        expect(cards.nth(0)).to_be_visible()
        page.locator("button.link").first.click()
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).not_to_be_visible()
        picks.select_option("lowest mIoU first")
        cards.nth(0).focus()
        page.keyboard.press("Enter")
        expect(page.locator("#viewed")).to_contain_text(worst.split()[0])
        page.keyboard.press("Home")
        expect(page.locator("#over")).to_have_attribute("style", re.compile(r"inset\(0(px)? 0(px)? 0(px)? 0%\)"))
        page.locator("#right").select_option("wrong pixels")
        expect(page.locator("#over")).to_have_attribute("alt", re.compile("^wrong pixels of "))
        assert page.evaluate("document.getElementById('over').naturalWidth") == 480
        page.locator("#next").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#viewed")).to_contain_text(second)
        expect(page.locator("#legend tbody tr").first).to_be_visible()
        assert page.evaluate("(of => of.scrollWidth <= of.clientWidth)(document.querySelector('#legend .scroll'))")
        page.keyboard.press("Escape")
        axis = page.locator("svg text", has_text="percent")
        assert (axis.bounding_box() or {"height": 0})["height"] > 10, "labels are legible on a phone"


def test_failed_partial_and_large_runs_have_a_page_without_errors(
    browser: Browser, photographs: RunFolder, shared: Path, tmp_path: Path
) -> None:
    numbers = list(range(12))
    with visited(browser, write(test_report.make(tmp_path / "failed", [numbers], failed=tuple(numbers)))) as page:
        expect(page.get_by_text("12 of 12 images have no result")).to_be_visible()
        page.get_by_text("12 images", exact=True).click()
        expect(page.get_by_text("i00, i01, i02")).to_be_visible()
    partial = in_process.evaluate(tmp_path / "partial", shared / "data/real", only=6, options={"refuse": "9"})
    with visited(browser, write(partial), 390) as page:
        expect(page.get_by_text("not final", exact=True).first).to_be_visible()
        expect(page.locator(".card")).to_have_count(4)
    parts = [list(range(first, first + 500)) for first in range(0, 5000, 500)]
    file = write(test_report.make(tmp_path / "large", parts, expected=5000))
    assert file.stat().st_size < 1_000_000, "the images that are not selected are not in it"
    with visited(browser, file, 390, "dark") as page:
        expect(page.locator("[data-shown]")).to_have_text("101 of the page's 101 images; 5,000 were scored")
        page.locator(".card").first.click()
        expect(page.locator("#legend tbody tr")).to_have_count(3)
    compared = tmp_path / "compared.html"
    arguments = ["compare", photographs.uri, partial.uri, "--unlike", "--html", str(compared)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    board = tmp_path / "board.html"
    assert CliRunner().invoke(app, ["leaderboard", photographs.uri, "--html", str(board)]).exit_code == 0
    with visited(browser, board, 390) as page:
        expect(page.get_by_text("(own run)")).to_be_visible()
    with visited(browser, compared, 390, "dark") as page:
        reason = page.locator(".refused span")
        expect(reason).to_contain_text("Not like with like")
        sides = reason.bounding_box() or {"x": 0, "width": 999}
        assert sides["x"] + sides["width"] < 390, "the whole reason is seen without scrolling"
        page.locator(".card").first.click()
        expect(page.locator("#right")).to_have_value("prediction of partial")
