"""All that the page can do, in Chromium; test_page_look.py is the quick look at it."""

import io
import json
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from pycocotools import mask as coco

from ovss_ray.io import images
from ovss_ray.serve.row import Kind, Row
from tests.serve.bright import outlined, picture
from tests.serve.http.browsing import HEIGHT, PATIENCE, PHOTO, WIDTH, Service, encoded, load, names, shown, visiting
from tests.serve.http.test_page_look import violations
from tests.toys import bright

pytestmark = pytest.mark.slow

TITLE = "one => one.getAttribute('aria-label') || one.querySelector('img')?.alt || one.textContent"
GIVE = """(one, [kind, given]) => {
    const transfer = new DataTransfer();
    if (typeof given === "string") transfer.setData("text", given);
    else transfer.items.add(new File([Uint8Array.from(given)], `${kind}.png`, { type: "image/png" }));
    const init = { bubbles: true, cancelable: true };
    const event = kind === "drop" ? new DragEvent(kind, { ...init, dataTransfer: transfer })
        : new ClipboardEvent(kind, { ...init, clipboardData: transfer });
    one.dispatchEvent(event);
}"""
"""Drops or pastes a text, or a file of these bytes."""


def point(page: Page, x: float, y: float, **options: Any) -> None:
    """Click at a place of the canvas, in parts of it."""
    box = page.locator("#canvas").bounding_box()
    assert box
    page.locator("#canvas").click(position={"x": x * box["width"], "y": y * box["height"]}, **options)


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """The name and content of what a button hands over."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def prompts(service: Service) -> list[Row]:
    """The rows of the prompts that have come to the workers."""
    return [row for row, kind in service.toy.asked if kind in ("prompt", "masks")]


def wait(page: Page, done: Callable[[], bool]) -> None:
    """Wait for what is seen at the service only."""
    until = time.monotonic() + PATIENCE / 1000
    while not done():
        assert time.monotonic() < until
        page.wait_for_timeout(20)


def wait_for_labels(page: Page, service: Service, labels: list[int]) -> None:
    """Wait for a prompt with these labels. The prompt before it may come later, since the page does not wait for it."""
    wait(page, lambda: any(row["prompts"].get("labels") == labels for row in prompts(service)))


def test_what_is_clicked_in_the_legend_stands_out(page: Page) -> None:
    load(page, "dark", "light")
    strengths = []
    for _ in range(2):
        page.locator("#results .found", has_text="light").click()
        page.mouse.move(2, 2)
        page.locator("#word").focus()
        seen = shown(page).astype(int)
        strengths.append(np.ptp(seen[seen.shape[0] // 2, seen.shape[1] // 6]))
    faint, full = strengths
    assert faint < 0.5 * full


def test_labels_are_saved_as_the_service_writes_them(page: Page, service: Service) -> None:
    load(page, "dark", "grey", "light")
    expect(names(page)).to_have_count(3)  # on a busy machine, fewer words are answered first
    name, content = saved(page, "Labels, PNG")
    assert name == "photo_bright_labels.png"
    answer = page.request.post(
        f"{service.address}v1/segment",
        headers={"Accept": "image/png"},
        multipart={"image": PHOTO, "classes": "a"},
        params="classes=a",
    )
    made, servers = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(answer.body()))
    np.testing.assert_array_equal(np.asarray(made), bright(picture(HEIGHT, WIDTH), 3))
    assert made.getpalette() == servers.getpalette(), "the colours are the service's, to the last bit"


def on_its_side(kind: str) -> bytes:
    """A photograph that its header says is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(HEIGHT, WIDTH)).save(file := io.BytesIO(), kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photograph_that_lies_on_its_side_is_upright_as_the_service_has_it(page: Page, kind: str) -> None:
    load(page, "dark", "light")
    page.locator("#file").set_input_files({**PHOTO, "buffer": on_its_side(kind)})
    expect(page.locator("#canvas")).to_have_attribute("aria-label", f"photo.png, {HEIGHT} by {WIDTH} pixels")
    expect(names(page)).to_have_count(2)
    labels = np.asarray(Image.open(io.BytesIO(saved(page, "Labels, PNG")[1])))
    np.testing.assert_array_equal(labels, bright(images.decode(on_its_side(kind), kind), 2))


def test_a_large_photograph_is_sent_smaller_unless_its_full_size_is_wanted(page: Page, service: Service) -> None:
    load(page, "dark", "light")
    service.toy.asked.clear()

    def sent() -> list[tuple[int, ...]]:
        return [row["image"].shape[:2] for row, kind in service.toy.asked if kind == "segment"]

    page.locator("#file").set_input_files({**PHOTO, "buffer": encoded(picture(2000, 3000))})
    expect(page.locator("#tools")).to_contain_text("Sent as 2449 × 1632, which is faster.")
    wait(page, lambda: (1632, 2449) in sent())
    expect(names(page)).to_have_count(2)
    page.get_by_label("Full size (3000 × 2000)").check()
    wait(page, lambda: (2000, 3000) in sent())
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "photo.png, 3000 by 2000 pixels")
    page.get_by_label("Full size (3000 × 2000)").uncheck()
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "photo.png, 2449 by 1632 pixels")


def test_an_image_that_browsers_turn_otherwise_than_the_service_is_refused(page: Page) -> None:
    load(page, "dark", "light")
    page.locator("#file").set_input_files({**PHOTO, "buffer": on_its_side("WEBP")})
    expect(page.locator("#notice")).to_contain_text("The service sees this image turned another way")


def test_masks_and_overlay_are_saved_as_they_are_shown(page: Page) -> None:
    load(page, "dark", "light|bright")
    name, content = saved(page, "Masks, JSON")
    told = json.loads(content)
    assert (name, told["classes"], told["answers"][0]["model"]) == (
        "photo_map.json",
        [["dark"], ["light", "bright"]],
        "bright",
    )
    for one in told["answers"][0]["classes"]:
        np.testing.assert_array_equal(coco.decode(one["rle"]), bright(picture(HEIGHT, WIDTH), 2) == one["index"])
    name, content = saved(page, "Overlay, PNG")
    overlay = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert overlay.shape == (HEIGHT, WIDTH, 3)
    assert overlay[100, 40, 0] > overlay[100, 40, 2] + 80


def test_many_words_are_saved_in_sixteen_bits(page: Page) -> None:
    load(page)
    page.get_by_label("Add the words of a benchmark").select_option("scenes:all")
    expect(page.locator(".chip.many")).to_contain_text("scenes:all, 330 names")
    expect(names(page).first).to_be_visible()
    _, content = saved(page, "Labels, PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), bright(picture(HEIGHT, WIDTH), 330))


def test_what_is_under_the_pointer_is_named(page: Page) -> None:
    load(page, "dark", "light")
    expect(names(page)).to_have_count(2)
    box = page.locator("#canvas").bounding_box()
    assert box
    for part, name in ((0.2, "dark"), (0.8, "light")):
        page.mouse.move(box["x"] + part * box["width"], box["y"] + 50)
        expect(page.locator("#tip")).to_contain_text(name)
        expect(page.locator("#tip")).to_contain_text("50 %")
    page.mouse.move(2, 2)
    expect(page.locator("#tip")).to_be_hidden()


def test_words_are_chips_that_come_and_go_by_keys(page: Page) -> None:
    load(page)
    word, chips = page.locator("#word"), page.locator(".chip span")
    expect(word).to_be_focused()
    page.keyboard.type("sky,path | footpath,")
    expect(chips).to_have_text(["sky", "path | footpath"])
    word.evaluate(GIVE, ["paste", "tree, bush; sky\nsea"])
    expect(chips).to_have_text(["sky", "path | footpath", "tree", "bush", "sea"])
    page.keyboard.press("Backspace")
    expect(chips).to_have_count(4)
    page.get_by_role("button", name="Remove sky").click()
    expect(chips).to_have_text(["path | footpath", "tree", "bush"])
    expect(word).to_be_focused()
    page.get_by_role("button", name="Clear").click()
    expect(chips).to_have_count(0)


def test_a_benchmarks_words_go_in_front_and_can_be_taken_apart(page: Page) -> None:
    load(page, "elephant")
    page.get_by_label("Add the words of a benchmark").select_option("camvid")
    expect(page.locator("#words h2")).to_contain_text("12")
    page.get_by_role("button", name="Edit the names of camvid").click()
    expect(page.locator(".chip")).to_have_count(12)
    expect(page.locator(".chip").last).to_contain_text("elephant")


def test_clicks_and_boxes_make_objects_that_can_be_undone(page: Page, service: Service) -> None:
    load(page, "dark", "light")
    page.get_by_role("button", name="Objects", exact=True).click()
    point(page, 0.25, 0.5)
    expect(names(page)).to_contain_text(["light"])  # the toy's best mask, wherever somebody clicks
    wait_for_labels(page, service, [1])
    np.testing.assert_allclose(prompts(service)[-1]["prompts"]["points"], [[WIDTH / 4, HEIGHT / 2]], atol=1)
    point(page, 0.75, 0.5, button="right")
    point(page, 0.75, 0.75, modifiers=["Shift"])
    wait_for_labels(page, service, [1, 0, 0])
    expect(page.locator("#results .object")).to_have_count(1)
    box = page.locator("#canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"], steps=4)
    page.mouse.up()
    expect(page.locator("#results .object")).to_have_count(2)
    wait(page, lambda: "box" in prompts(service)[-1]["prompts"])
    np.testing.assert_allclose(
        prompts(service)[-1]["prompts"]["box"], [WIDTH / 2, HEIGHT / 2, 0.75 * WIDTH, 0.75 * HEIGHT], atol=2
    )
    known = len(service.toy.asked)
    for left in (1, 1, 1, 0):
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#results .object")).to_have_count(left)
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    for there in (1, 1, 1, 2):
        page.get_by_role("button", name="Redo").click()
        expect(page.locator("#results .object")).to_have_count(there)
    assert len(service.toy.asked) == known, "what was answered once is not asked again"
    numbers = np.asarray(Image.open(io.BytesIO(saved(page, "Labels, PNG")[1])))
    assert set(np.unique(numbers)) <= {0, 1, 2}
    told = json.loads(saved(page, "Masks, JSON")[1])["objects"]
    assert [len(one["points"]) for one in told] == [3, 0]
    np.testing.assert_array_equal(coco.decode(told[0]["rle"]), bright(picture(HEIGHT, WIDTH), 2) == 1)


def test_another_mask_can_be_chosen_and_an_object_removed(page: Page) -> None:
    load(page, "dark", "light")
    page.get_by_role("button", name="Objects", exact=True).click()
    point(page, 0.25, 0.5)
    page.get_by_role("button", name=re.compile("^Mask 2")).click()
    expect(names(page)).to_contain_text(["dark"])
    page.locator("#results").get_by_role("button", name="Remove dark").click()
    expect(page.locator("#results .object")).to_have_count(0)


def test_an_image_is_sent_once_and_again_when_it_is_held_no_more(browser: Browser, service: Service) -> None:
    before = len(prompts(service))
    with visiting(browser, service.address, "404") as page:
        load(page, "dark", "light")
        page.get_by_role("button", name="Objects", exact=True).click()
        for number in range(3):
            if number == 2:
                service.toy.held.clear()
            point(page, 0.2 + 0.2 * number, 0.5)
            wait(page, lambda: len(prompts(service)[before:]) == (1, 2, 4)[number])  # noqa: B023
            expect(page.locator("#working")).to_be_empty()
    whole = [row["image"].size > 0 for row in prompts(service)[before:]]
    assert whole == [True, False, False, True]


def test_an_answer_that_comes_late_is_not_shown_over_the_next_image(page: Page, service: Service) -> None:
    load(page, "dark", "light")
    before = len(service.toy.asked)
    service.toy.delay = 1.0
    try:
        for image in (picture(HEIGHT, WIDTH)[::-1], picture(HEIGHT, WIDTH)[:, ::-1]):
            page.locator("#file").set_input_files({**PHOTO, "buffer": encoded(image)})
            page.wait_for_timeout(600)  # the first image's answer comes soon after the second one is there
        wait(page, lambda: len(service.toy.asked) >= before + 2)
        expect(names(page)).to_have_count(2)
    finally:
        service.toy.delay = 0.0
    labels = np.asarray(Image.open(io.BytesIO(saved(page, "Labels, PNG")[1])))
    np.testing.assert_array_equal(labels, bright(image, 2))


def test_two_models_are_compared_side_by_side(page: Page) -> None:
    load(page, "dark", "light")
    page.locator("#other").select_option("outliner")
    expect(page.get_by_text("The two agree on 100 % of the pixels")).to_be_visible()
    expect(page.locator("#sides span")).to_have_text(["bright", "outliner"])
    page.locator("#split").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#split")).to_have_value("45")
    box = page.locator("#canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    expect(page.locator("#tip")).to_have_text(re.compile("bright: dark · 50\\s%\noutliner: dark · 50\\s%"))
    assert saved(page, "Labels of outliner, PNG")[0] == "photo_outliner_labels.png"


def test_regions_are_listed_with_names_and_can_be_searched(page: Page) -> None:
    load(page, "dark", "grey", "light")
    page.get_by_role("button", name="Everything", exact=True).click()
    expect(page.get_by_text("3 of 3 regions")).to_be_visible()
    expect(page.get_by_text("bright cannot do this; outliner is asked.")).to_be_visible()
    page.get_by_label("Name has").fill("gr")
    expect(page.get_by_text("1 of 3 regions")).to_be_visible()
    told = json.loads(saved(page, "Masks, JSON")[1])
    assert [one["names"][0]["name"] for one in told["regions"]] == ["grey"]


def test_all_of_it_can_be_done_by_keys(page: Page, service: Service) -> None:
    def reach(name: str) -> None:
        """Press Tab until something of this name has the focus, and see that it is marked."""
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and re.search(name, str(focused.evaluate(TITLE))):
                assert focused.evaluate("one => getComputedStyle(one).outlineStyle") != "none"
                return
        raise AssertionError(f"Tab does not reach {name}")

    expect(page.locator(".examples img").first).to_be_visible()
    reach("Drawn scene")
    page.keyboard.press("Enter")
    expect(names(page).first).to_be_visible()
    expect(page.locator("#said")).to_contain_text("Found: ")
    page.locator("body").evaluate("() => document.activeElement.blur()")
    reach("Objects")
    page.keyboard.press("Enter")
    reach("scene_0.png")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#said")).to_contain_text(re.compile(r"^\d+, \d+"))
    for key in ("ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#results .object")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Enter")
    wait_for_labels(page, service, [1, 0])
    for key in ("b", "ArrowRight", "ArrowRight", "ArrowDown", "b"):
        page.keyboard.press(key)
    expect(page.locator("#results .object")).to_have_count(2)
    expect(page.locator("#results .quality")).to_have_count(2)
    expect(page.locator("#working")).to_be_empty()
    page.keyboard.press("Control+z")
    expect(page.locator("#results .object")).to_have_count(1)
    expect(page.locator("#said")).to_contain_text("undone")
    page.keyboard.press("Control+y")
    expect(page.locator("#results .object")).to_have_count(2)
    reach("Masks, JSON")
    with page.expect_download():
        page.keyboard.press("Enter")
    reach("Help")
    page.keyboard.press("Enter")
    expect(page.locator("#helping")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#helping")).to_be_hidden()


def pinch(page: Page) -> None:
    """Put two fingers on the image, and move them apart to three times their distance."""
    box, fingers = page.locator("#canvas").bounding_box(), page.context.new_cdp_session(page)
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *halves: int) -> None:
        points = [{"x": x + side * half, "y": y, "id": side + 1} for half in halves for side in (-1, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 30)
    for half in (45, 60, 75, 90):
        touch("touchMove", half)
    touch("touchEnd")


def test_on_a_phone_nothing_is_cut_off_and_a_finger_is_enough(browser: Browser, service: Service) -> None:
    service.toy.asked.clear()
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with visiting(browser, service.address, **phone) as page:
        page.locator(".examples button").first.tap()
        expect(names(page).first).to_be_visible()
        assert page.locator("html").evaluate("one => one.scrollWidth") == 390
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is None or box["height"] >= 30, button
        page.get_by_role("button", name="Objects", exact=True).tap()
        page.locator("#canvas").tap(position={"x": 100, "y": 100})
        expect(page.locator("#results .object")).to_have_count(1)
        page.get_by_role("button", name="Outside").tap()
        page.locator("#canvas").tap(position={"x": 200, "y": 100})
        wait_for_labels(page, service, [1, 0])
        assert page.locator("html").evaluate("one => one.scrollWidth") == 390
        pinch(page)
        expect(page.locator("#frame")).to_have_class("zoomed")
        expect(page.locator(".zoom output")).to_have_text(re.compile(r"[2-9]\d\d\s%"))
        expect(page.locator("#results .object")).to_have_count(1)
        page.get_by_role("button", name="Whole image").tap()
        expect(page.locator("#frame")).not_to_have_class("zoomed")
        page.get_by_role("button", name="Everything", exact=True).tap()
        page.locator("#results .found").first.tap()
        expect(page.locator("#results ol.names")).to_be_visible()
        assert page.locator("html").evaluate("one => one.scrollWidth") == 390


def test_settings_are_in_the_address_and_the_image_is_not(page: Page) -> None:
    load(page, "dark", "path|footpath")
    page.locator("#model").select_option("outliner")
    page.locator("#opacity").fill("30")
    page.get_by_label("Add the words of a benchmark").select_option("camvid")
    expect(page.locator(".chip.many")).to_be_visible()
    page.get_by_role("button", name="Everything", exact=True).click()
    expect(page).to_have_url(re.compile("mode=regions.*opacity=30.*preset=camvid.*word=dark&word=path%7Cfootpath"))
    assert "photo" not in page.url
    page.reload()
    expect(page.locator(".chip.many")).to_be_visible()
    expect(page.locator(".chip")).to_have_count(3)
    expect(page.locator("#model")).to_have_value("outliner")
    expect(page.get_by_role("button", name="Everything", exact=True)).to_have_attribute("aria-pressed", "true")
    load(page)
    expect(page.locator("#opacity")).to_have_value("30")


def test_a_photograph_may_be_dropped_or_pasted(page: Page) -> None:
    for kind in ("drop", "paste"):
        page.locator("#stage").evaluate(GIVE, [kind, list(encoded(picture(30, 40)))])
        expect(page.locator("#canvas")).to_have_attribute("aria-label", f"{kind}.png, 40 by 30 pixels")


def test_what_is_refused_is_said(browser: Browser, service: Service) -> None:
    with visiting(browser, service.address) as page:
        load(page, "dark")
        expect(names(page)).to_have_count(1)
        text = {"name": "text.png", "mimeType": "image/png", "buffer": b"hello"}
        page.locator("#file").set_input_files(text)
        expect(page.locator("#notice")).to_contain_text("text.png cannot be shown")
    small = Service(body=1500, letters=20)
    with visiting(browser, small.address, "413", "422") as page:
        page.locator("#file").set_input_files({**PHOTO, "buffer": encoded(picture(8, 8))})
        page.locator("#word").fill("a" * 21)
        page.locator("#word").press("Enter")
        expect(page.locator("#notice")).to_contain_text("a class name has 21 characters; the limit is 20")
        noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        page.locator("#file").set_input_files({**PHOTO, "buffer": encoded(noise)})
        expect(page.locator("#notice")).to_contain_text("The image is too large")
    small.server.should_exit = True


WRITTEN = """() => {
    window.written = [];
    new MutationObserver(() => window.written.push(document.getElementById("working").textContent))
        .observe(document.getElementById("working"), { subtree: true, childList: true, characterData: true });
}"""
"""Keeps all that is written below the image: on a busy machine some of it is there for a moment only."""


def test_a_busy_service_is_asked_again_after_as_long_as_it_says_and_a_restarting_one_when_it_is_back(
    browser: Browser, service: Service
) -> None:
    with visiting(browser, service.address, "429", "503", "504", "404") as page:
        answers = [(429, "1"), (503, "1")]
        times: list[float] = []

        def busy(route: Any) -> None:
            times.append(time.monotonic())
            if not answers:
                return route.continue_()
            status, seconds = answers.pop(0)
            route.fulfill(status=status, headers={"Retry-After": seconds}, body='{"detail": "later"}')

        page.evaluate(WRITTEN)
        page.route("**/v1/segment*", busy)
        load(page, "dark")
        expect(names(page)).to_have_text(["dark"])
        written = " ".join(page.evaluate("() => window.written"))
        assert re.search(r"Busy: asked again in \d s.*Not ready: asked again in \d s", written, re.DOTALL)
        answers.append((504, "0"))
        page.locator("#word").fill("grey")
        page.locator("#word").press("Enter")
        expect(page.locator("#notice")).to_contain_text("This took longer than the service allows")
        assert len(times) == 4
        page.route("**/v1/segment*", lambda route: route.fulfill(status=404, body="no such route"), times=1)  # Serve's
        page.locator("#word").fill("light")
        page.locator("#word").press("Enter")
        expect(page.locator("#notice")).to_contain_text("The service cannot be reached")
        expect(names(page)).to_have_text(["dark", "grey", "light"])
        expect(page.locator("#notice")).to_be_empty()
    assert len(times) == 5, "what takes too long is not asked again, and the service is as soon as it is back"
    assert times[1] - times[0] >= 0.9
    assert times[2] - times[1] >= 0.9


def test_a_service_that_cannot_be_reached_costs_nothing_and_is_asked_again_when_it_is_back(
    browser: Browser, service: Service
) -> None:
    with visiting(browser, service.address, "ERR_") as page:
        load(page, "dark", "light")
        expect(names(page)).to_have_count(2)
        page.get_by_role("button", name="Objects", exact=True).click()
        point(page, 0.25, 0.5)
        expect(names(page)).to_have_text([re.compile("^light")])
        page.context.set_offline(True)
        point(page, 0.75, 0.5, button="right")
        expect(page.locator("#notice")).to_contain_text("The service cannot be reached")
        page.get_by_role("button", name="Label map", exact=True).click()
        expect(names(page)).to_have_count(2)
        page.get_by_role("button", name="Dismiss").click()
        page.locator("#word").fill("grey")
        page.locator("#word").press("Enter")
        expect(page.locator("#notice")).to_contain_text("Image, objects and results stay here")
        expect(page.locator("#results")).to_have_class("stale")
        assert violations(page) == []
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#notice")).to_contain_text("The service cannot be reached")
        page.context.set_offline(False)
        expect(names(page)).to_have_count(3)
        expect(page.locator("#notice")).to_be_empty()
        page.get_by_role("button", name="Objects", exact=True).click()
        expect(page.locator("#results .object .quality")).to_have_count(1)


def test_a_key_is_asked_for_once_and_kept_in_the_tab(browser: Browser) -> None:
    locked = Service(key="a long random word")
    with visiting(browser, locked.address, "401") as page:
        expect(page.locator("#keying")).to_be_visible()
        for key, title in (("wrong", "That key is wrong"), ("a long random word", None)):
            page.locator("#key").fill(key)
            page.keyboard.press("Enter")
            if title:
                expect(page.locator("#keying-title")).to_have_text(title)
        expect(page.locator("#keying")).to_be_hidden()
        expect(page.locator(".examples img")).to_have_count(5)
        page.reload()
        load(page, "dark", "light")
        expect(names(page)).to_have_count(2)
        expect(page.locator("#keying")).to_be_hidden()
        assert "random" not in page.url
    locked.server.should_exit = True


def test_names_of_a_region_show_the_scores_of_head_and_clip(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def branched(labels: np.ndarray, classes: int, kind: Kind) -> Row:
        best = np.tile(np.arange(classes), (classes, 1))
        scores = np.tile(np.array([0.75, 0.25, 0.5], np.float32), (classes, classes, 1))
        return {**outlined(labels, classes, kind), "top_classes": best, "top_scores": scores}

    monkeypatch.setattr("tests.serve.bright.outlined", branched)
    load(page, "dark", "light")
    page.get_by_role("button", name="Everything", exact=True).click()
    page.locator(".region button.found").first.click()
    expect(page.get_by_text("head 25 %, CLIP 50 %").first).to_be_visible()
