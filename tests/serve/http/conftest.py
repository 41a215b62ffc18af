"""A browser, and the toy service that it visits, for the tests of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.paths import absent
from tests.serve.http.browsing import CHROMIUM, PATIENCE, Service, visiting


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.should_exit = True


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as one:
        yield one


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    if not CHROMIUM:
        absent(
            "no Chromium is installed, in which to try the page: apt install chromium, or CHROMIUM=/path/to/chromium"
        )
    # Chromium's own sandbox cannot be had by root in a container; what is opened here is our own page.
    one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=2 * PATIENCE)
    yield one
    one.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    service.toy.asked.clear()
    with visiting(browser, service.address) as one:
        yield one
