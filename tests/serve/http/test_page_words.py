"""The page in a browser: the words that a model finds, as chips that can be renamed and removed."""

import pytest
from playwright.sync_api import Browser, expect

from ovss_ray.serve.http.admission import Model
from tests.serve.bright import MODEL, WORDS
from tests.serve.http.browsing import Service, load, names, visiting
from tests.serve.http.test_own_words import FINDER, send
from tests.serve.http.test_page_look import violations

pytestmark = pytest.mark.slow


def test_found_words_become_chips_that_are_renamed_or_removed_and_then_segmented(browser: Browser) -> None:
    service = Service(models=[Model(card, send, WORDS) for card in (MODEL, FINDER)])
    with visiting(browser, service.address) as page:
        find, chips = page.get_by_role("button", name="Find words"), page.locator(".chip")
        expect(find).to_be_disabled()
        load(page, "typed")
        find.click()
        expect(chips.locator("span")).to_have_text(["shade", "light | glow", "typed"])
        expect(chips.nth(0)).to_have_attribute("title", "toy, score 0.75")
        assert chips.nth(2).get_attribute("title") is None, "nobody has found the user's word"
        assert not violations(page)
        page.get_by_role("button", name="Rename shade").click()
        expect(page.locator("#word")).to_have_value("shade")
        page.locator("#word").fill("shadow")
        page.locator("#word").press("Enter")
        page.get_by_role("button", name="Remove typed").click()
        expect(names(page)).to_have_text(["light", "shadow"])
