"""The page in Chromium: previews and zoom on the image, converted formats, and what survives a reload."""

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from ovss_ray.serve.row import Kind, Row
from tests.serve.bright import outlined, picture
from tests.serve.http.browsing import HEIGHT, PHOTO, WIDTH, Service, encoded, load, names, shown, visiting
from tests.serve.http.test_page_browser import point, prompts, saved, wait
from tests.serve.http.test_page_look import violations
from tests.toys import bright

pytestmark = pytest.mark.slow


def over(page: Page, x: float, y: float) -> None:
    """Move the pointer to a place of the image, in parts of the frame."""
    box = page.locator("#frame").bounding_box()
    assert box
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_the_pointer_shows_the_mask_of_a_click_which_is_then_there_at_once(page: Page, service: Service) -> None:
    load(page, "dark", "light")
    page.get_by_role("button", name="Objects", exact=True).click()
    plain = shown(page).astype(int)
    for x in (0.2, 0.21, 0.22, 0.25):
        over(page, x, 0.5)
    page.wait_for_function(
        """async (x) => {
            const { preview } = (await import("./page/static/state.js")).state;
            return preview && Math.abs(JSON.parse(preview.question)[2][0][0] - x) < 2;
        }""",
        arg=WIDTH // 4,
    )
    column = (4 * plain.shape[1]) // 5  # the best mask is the bright half
    wait(page, lambda: np.abs(shown(page).astype(int) - plain)[:, column].max() > 30)
    asked = len(prompts(service))
    page.mouse.down()
    page.mouse.up()
    expect(names(page)).to_have_text([re.compile("^light")])
    assert len(prompts(service)) == asked, "the click was answered before it came"


def test_a_box_is_given_to_the_selected_object_with_shift(page: Page, service: Service) -> None:
    load(page, "dark", "light")
    page.get_by_role("button", name="Objects", exact=True).click()
    point(page, 0.25, 0.5)
    expect(page.locator("#results .object .quality")).to_have_count(1)
    page.keyboard.down("Shift")
    over(page, 0.5, 0.5)
    page.mouse.down()
    over(page, 0.75, 0.75)
    page.mouse.up()
    page.keyboard.up("Shift")
    wait(page, lambda: "box" in prompts(service)[-1]["prompts"] and "points" in prompts(service)[-1]["prompts"])
    expect(page.locator("#results .object")).to_have_count(1)


def test_the_wheel_zooms_where_the_pointer_is_and_a_drag_moves_the_view(page: Page) -> None:
    load(page, "dark", "light")
    expect(names(page)).to_have_count(2)
    over(page, 0.75, 0.5)
    page.mouse.wheel(0, -700)
    expect(page.locator("#frame")).to_have_class("zoomed")
    over(page, 0.05, 0.5)  # at fourfold size, all that is seen is the bright half
    expect(page.locator("#tip")).to_contain_text("light")
    page.mouse.down()
    over(page, 0.95, 0.5)
    page.mouse.up()
    over(page, 0.06, 0.5)
    expect(page.locator("#tip")).to_contain_text("dark")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator('#results .found[aria-pressed="true"]')).to_contain_text("dark")
    page.locator("#canvas").press("0")
    expect(page.locator("#frame")).not_to_have_class("zoomed")
    expect(page.locator("#said")).to_have_text("whole image")
    for key, zoom in (("+", "150"), ("+", "225"), ("-", "150")):
        page.locator("#canvas").press(key)
        expect(page.locator("#said")).to_have_text(re.compile(rf"zoom {zoom}\s%"))
    page.locator("#canvas").press("ArrowRight")
    before = page.locator("#canvas").bounding_box()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    after = page.locator("#canvas").bounding_box()
    assert before
    assert after
    assert after["x"] < before["x"] - 20, "the view moves with the crosshair"
    page.get_by_role("button", name="Zoom out").click()
    expect(page.locator(".zoom output")).to_have_text(re.compile(r"100\s%"))


def converted(kind: str) -> bytes:
    Image.fromarray(picture(HEIGHT, WIDTH)).save(file := io.BytesIO(), kind)
    return file.getvalue()


def test_formats_that_the_service_does_not_take_are_converted(page: Page) -> None:
    load(page, "dark", "light")
    for kind in ("GIF", "BMP", "AVIF"):
        name = f"photo.{kind.lower()}"
        content = {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": converted(kind)}
        page.locator("#file").set_input_files(content)
        expect(page.locator("#canvas")).to_have_attribute("aria-label", f"{name}, {WIDTH} by {HEIGHT} pixels")
        expect(names(page)).to_have_count(2)
        expect(page.locator("#notice")).to_be_empty()


def test_image_objects_and_results_survive_a_reload(browser: Browser, service: Service) -> None:
    with visiting(browser, service.address, "404") as page:
        load(page, "dark", "light")
        expect(names(page)).to_have_count(2)
        past = page.locator("#strip button canvas")
        expect(past).to_have_count(1)
        page.get_by_role("button", name="Objects", exact=True).click()
        point(page, 0.25, 0.5)
        expect(names(page)).to_have_text([re.compile("^light")])
        expect(past).to_have_count(2)
        assert violations(page) == []
        known = len(service.toy.asked)
        page.reload()
        expect(page.locator("#canvas")).to_have_attribute("aria-label", f"photo.png, {WIDTH} by {HEIGHT} pixels")
        expect(names(page)).to_have_text([re.compile("^light")])
        page.mouse.move(2, 2)
        past.nth(1).click()
        expect(page.get_by_role("button", name="Label map", exact=True)).to_have_attribute("aria-pressed", "true")
        expect(names(page)).to_have_count(2)
        labels = np.asarray(Image.open(io.BytesIO(saved(page, "Labels, PNG")[1])))
        np.testing.assert_array_equal(labels, bright(picture(HEIGHT, WIDTH), 2))
        assert len(service.toy.asked) == known, "nothing is asked twice"
        page.locator("#word").fill("grey")
        page.locator("#word").press("Enter")
        for number in range(10):
            page.locator("#file").set_input_files({**PHOTO, "name": f"{number}.png", "buffer": encoded(picture())})
            title = f"{number}.png: Label map: dark, light, grey"
            expect(page.locator(f'#strip canvas[aria-label^="{title}"]')).to_be_visible()
        expect(past).to_have_count(10)
        page.get_by_role("button", name="Forget them").click()
        expect(past).to_have_count(0)


def test_flat_scores_are_no_idea_and_long_names_are_cut(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(labels: np.ndarray, classes: int, kind: Kind) -> Row:
        made = outlined(labels, classes, kind)
        return {**made, "scores": np.full((classes, classes), 0.01, np.float32) * np.eye(classes, dtype=np.float32)}

    monkeypatch.setattr("tests.serve.bright.outlined", flat)
    load(page, "dark", "light " * 40)
    page.get_by_role("button", name="Everything", exact=True).click()
    expect(names(page)).to_have_text([re.compile(r"no idea \(at best ")] * 2)
    over(page, 0.2, 0.2)
    expect(page.locator("#tip")).to_contain_text("no idea · 50 %")
    page.get_by_role("button", name="Label map", exact=True).click()
    expect(page.locator("#results .area")).to_have_count(2)
    over(page, 0.8, 0.2)
    expect(page.locator("#tip")).to_contain_text(re.compile("light light.*…"))
    assert page.locator("html").evaluate("one => one.scrollWidth <= innerWidth")


def test_what_is_done_before_the_models_are_known_stays_and_a_class_has_one_colour_in_all_modes(
    browser: Browser, service: Service
) -> None:
    with visiting(browser, service.address) as page:
        page.goto(f"{service.address}#mode=__proto__&word=dark&word=grey")
        held: list[Route] = []
        page.route("**/v1/models", lambda route: held.append(route))
        page.reload()
        expect(page.get_by_role("button", name="Label map", exact=True)).to_have_attribute("aria-pressed", "true")
        load(page, "light")
        page.get_by_role("button", name="Everything", exact=True).click()
        wait(page, lambda: len(held) == 1)
        expect(page).to_have_url(re.compile("mode=regions.*word=dark&word=grey&word=light"))
        told = held[0].fetch()
        offered = told.json()
        offered["models"][0]["stages"] = [{"use": "san", "options": {"variant": "san_tiny"}}]
        held[0].fulfill(response=told, json=offered)
        expect(page.locator("#model")).to_have_value("bright")
        colours = []
        expect(page.get_by_role("button", name="Everything", exact=True)).to_have_attribute("aria-pressed", "true")
        for mode in ("Everything", "Label map", "Objects"):
            page.get_by_role("button", name=mode, exact=True).click()
            small = "bright knows drawn scenes only: its answers for photographs make no sense."
            expect(page.get_by_text(small)).to_have_count(int(mode == "Label map"))
            if mode == "Objects":
                point(page, 0.25, 0.5)
            named = page.locator(".name", has_text=re.compile(r"^\s*light"))
            swatch = page.locator("#results .found", has=named).locator(".swatch rect")
            expect(swatch).to_have_count(1)
            colours.append(swatch.get_attribute("fill"))
        assert len(set(colours)) == 1


def test_old_results_are_grey_while_new_ones_are_awaited_and_the_place_is_told(page: Page) -> None:
    load(page, "dark", "light")
    expect(names(page)).to_have_count(2)

    def told(route: Any) -> None:
        route.fulfill(json={"ahead": 3, "seconds": 4.2, "in_progress": 4, "limit": 64})

    held: list[Route] = []
    page.route("**/v1/queue*", told)
    page.route("**/v1/segment*", lambda route: held.append(route))
    page.locator("#word").fill("grey")
    page.locator("#word").press("Enter")
    expect(page.locator("#results")).to_have_class("stale")
    expect(page.locator("#working")).to_contain_text("3 ahead, about 5 s")
    for route in held:
        route.continue_()
    expect(names(page)).to_have_count(3)
    expect(page.locator("#results")).not_to_have_class("stale")
    page.get_by_role("button", name="Objects", exact=True).click()
    plain = shown(page).astype(int)
    corner = (plain.shape[0] // 8, (7 * plain.shape[1]) // 8)  # of the mask, without marks and names

    def strength() -> int:
        return int(np.abs(shown(page).astype(int) - plain)[corner].max())

    point(page, 0.25, 0.5)
    expect(names(page)).to_have_text([re.compile("^grey")])
    wait(page, lambda: strength() > 0)
    full = strength()
    held.clear()
    page.route("**/v1/prompt*", lambda route: held.append(route))
    point(page, 0.25, 0.75, button="right")
    expect(page.locator("#results .object")).to_have_class(re.compile("stale"))
    expect(names(page)).to_have_text([re.compile("^grey")])
    wait(page, lambda: 0 < strength() < 0.6 * full)
    wait(page, lambda: len(held) == 1)
    held[0].continue_()
    expect(page.locator("#results .object")).not_to_have_class(re.compile("stale"))
    wait(page, lambda: strength() == full)


def test_on_a_phone_the_words_are_below_the_results(browser: Browser, service: Service) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with visiting(browser, service.address, **phone) as page:
        load(page, "dark", "light")
        expect(names(page)).to_have_count(2)

        def below() -> bool:
            words, results = page.locator("#words").bounding_box(), page.locator("#results").bounding_box()
            return words is not None and results is not None and results["y"] + results["height"] <= words["y"]

        wait(page, below)  # both boxes move while the page is drawn
