"""The page in a browser: the words that a model finds, as chips that can be renamed and removed."""

import json

import pytest
from playwright.sync_api import Browser, Page, expect

from ovss_ray.serve.http.admission import Model
from ovss_ray.structures.vocabulary import Vocabulary
from tests.serve.bright import MODEL, WORDS
from tests.serve.http.browsing import Service, load, names, visiting
from tests.serve.http.test_own_words import FINDER, send
from tests.serve.http.test_page_browser import saved, wait
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


def test_templates_and_merged_words_are_asked_for_and_kept_in_the_address(page: Page, service: Service) -> None:
    load(page, "sedan", "suv", "sky")
    page.get_by_text("Templates and merged words").first.click()
    merge, ignored = page.get_by_label("Words that count as one class"), page.get_by_text("Ignored: ")
    merge.fill("Sedan, suv = car\ntruck = car\nno sign")
    merge.blur()
    expect(names(page)).to_have_text(["car", "sky"])
    expect(ignored).to_have_text("Ignored: truck, no sign")
    assert not violations(page)
    page.get_by_label("Templates, one per line").fill("a {}.\n\none {} here")
    merge.fill("suv =")
    merge.blur()
    expect(names(page)).to_have_text(["sedan", "sky"])
    expect(page.locator("#results")).to_contain_text("33 % of the pixels have no name")
    expect(ignored).to_have_count(0)
    words = Vocabulary.of(["sedan", "suv", "sky"], ["a {}.", "one {} here"])
    wait(page, lambda: service.toy.asked[-1][0]["vocabulary"] == words.digest)
    told = json.loads(saved(page, "Masks, JSON")[1])
    assert (told["templates"], told["map"]) == (list(words.templates), {"suv": None})
    page.reload()
    load(page)
    expect(names(page)).to_have_text(["sedan", "sky"])
