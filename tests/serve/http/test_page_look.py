"""The first look at the page in a browser: it does its main work, and everybody can use it."""

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.serve.http.browsing import Service, load, names, shown


def test_a_photograph_and_words_become_a_label_map_with_a_legend(page: Page, service: Service) -> None:
    load(page, "dark", "grey", "light")
    expect(names(page)).to_have_text(["dark", "grey", "light"])
    expect(page.locator("#results .list .area").first).to_contain_text("34 %")
    seen = shown(page).astype(int)
    middle, columns = seen.shape[0] // 2, seen.shape[1]
    assert seen[middle, columns // 6, 0] > seen[middle, columns // 6, 2] + 80, "the first colour is red"
    assert seen[middle, columns // 2, 2] > seen[middle, columns // 2, 0] + 30, "the second one is blue"
    page.locator("#opacity").fill("0")
    grey = shown(page).astype(int)
    assert np.ptp(grey[middle, columns // 6]) < 12, "without opacity it is the photograph"


def violations(page: Page) -> list[str]:
    """The rules of accessibility that axe-core finds broken in what is shown, and where."""
    broken = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in broken for node in rule["nodes"]]


def test_axe_finds_no_fault_in_any_view(page: Page) -> None:
    assert violations(page) == []
    load(page, "dark", "light")
    expect(names(page)).to_have_count(2)
    assert violations(page) == []
    page.get_by_role("button", name="Everything", exact=True).click()
    expect(page.get_by_text("2 of 2 regions")).to_be_visible()
    page.get_by_label("Look for").select_option("light")
    page.locator("#results .found").first.click()
    assert violations(page) == []
    page.get_by_role("button", name="Objects", exact=True).click()
    page.locator("#canvas").click()
    expect(page.locator("#results .object")).to_have_count(1)
    assert violations(page) == []
    page.get_by_role("button", name="Help").click()
    expect(page.locator("#helping")).to_be_visible()
    assert violations(page) == []


def test_axe_looks_at_what_is_shown(page: Page) -> None:
    page.locator("#word").evaluate("one => one.labels.forEach(label => label.remove())")
    page.locator("#word").evaluate("one => ['aria-label', 'placeholder', 'title'].forEach(a => one.removeAttribute(a))")
    assert any(fault.startswith("label: <input") for fault in violations(page))
