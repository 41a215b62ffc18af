"""Masks with names on the page, in Chromium: top names, the ranking of a word, captions, and files to download."""

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from pycocotools import mask as coco

from tests.serve.bright import picture
from tests.serve.http.browsing import HEIGHT, PHOTO, WIDTH, Service, encoded, load, names, shown
from tests.serve.http.test_page_browser import point, saved, wait
from tests.toys import bright

pytestmark = pytest.mark.slow

WORDS = ["dark", "grey", "light"]


def everything(page: Page, *words: str) -> None:
    """Load the photograph, and show all regions with these words."""
    load(page, *words)
    page.get_by_role("button", name="Everything", exact=True).click()
    expect(page.get_by_text(f"{len(words)} of {len(words)} regions")).to_be_visible()


def answered(page: Page, service: Service, **fields: Any) -> dict[str, Any]:
    """Return the service's answer to /v1/regions for the photograph and WORDS."""
    form = {"image": PHOTO, "classes": json.dumps(WORDS), **fields}
    return page.request.post(f"{service.address}v1/regions", multipart=form).json()


def pixels(content: bytes, mode: str | None = None) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    return np.asarray(image.convert(mode) if mode else image)


def test_the_best_names_of_a_region_are_listed_with_their_scores_when_it_is_chosen(page: Page) -> None:
    everything(page, *WORDS)
    best = page.locator("#results ol.names")
    expect(best).to_have_count(0)
    point(page, 0.5, 0.3)
    expect(best).to_have_attribute("aria-label", "Best names of grey")
    expect(best.locator("li")).to_have_text([re.compile(r"grey\s+99\s%"), *2 * [re.compile(r"(dark|light)\s+0\.7\s%")]])
    point(page, 0.9, 0.3)
    expect(best).to_have_attribute("aria-label", "Best names of light")
    point(page, 0.9, 0.3)
    expect(best).to_have_count(0)
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(best).to_have_attribute("aria-label", "Best names of grey")
    expect(page.locator("#said")).to_contain_text("grey · 33 % · score 99 % chosen")


def test_the_best_names_of_the_selected_object_are_listed_with_their_scores(page: Page) -> None:
    load(page, *WORDS)
    page.get_by_role("button", name="Objects", exact=True).click()
    point(page, 0.5, 0.5)
    best = page.locator("#results ol.names")
    expect(best.locator("li")).to_have_count(3)
    expect(best.locator("li").first).to_have_text(re.compile(r"light\s+99\s%"))
    page.get_by_role("button", name="New object").click()
    expect(best).to_have_count(0)


def test_a_word_ranks_the_regions_by_its_score(page: Page) -> None:
    everything(page, *WORDS)
    rank = page.get_by_label("Look for")
    rank.select_option("grey")
    expect(names(page).first).to_have_text(re.compile(r"1\. grey\s+score 99\s%"))
    expect(names(page).nth(1)).to_have_text(re.compile(r"2\. grey\s+score 0\.7\s%\s+\(more likely \w+ 99\s%\)"))
    page.get_by_label("Best 5").fill("1")
    expect(page.get_by_text("1 of 3 regions, by their score for grey")).to_be_visible()
    seen = shown(page).astype(int)
    colourful = np.ptp(seen[seen.shape[0] // 5], axis=-1) > 12
    assert colourful[seen.shape[1] // 2], "the best region is coloured"
    assert not colourful[[seen.shape[1] // 6, 5 * seen.shape[1] // 6]].any(), "the others are not shown"
    expect(page).to_have_url(re.compile("rank=grey"))
    page.locator("#word").fill("black")
    page.locator("#word").press("Enter")
    expect(names(page)).to_have_text([re.compile(r"1\. black\s+score 98\s%")])
    expect(rank).to_have_value("black")
    rank.select_option("all words, largest first")
    expect(page.get_by_text("4 of 4 regions")).to_be_visible()


def test_a_single_word_ranks_regions_and_the_page_says_what_its_score_is_worth(page: Page) -> None:
    everything(page, "dark")
    page.get_by_label("Look for").select_option("dark")
    expect(page.get_by_text("With one word every score is 100 %")).to_be_visible()


def test_names_are_written_on_the_masks_unless_they_are_turned_off(page: Page) -> None:
    everything(page, *WORDS)
    page.mouse.move(2, 2)
    switch = page.get_by_label("Names on the masks")
    expect(switch).to_be_checked()
    written = shown(page).astype(int)
    switch.uncheck()
    expect(page).to_have_url(re.compile("names=0"))
    bare = shown(page).astype(int)
    changed = (np.abs(written - bare).max(-1) > 40).any(0)
    thirds = np.array_split(changed, 3)
    assert all(0.05 < third.mean() < 0.9 for third in thirds), "a name stands on each of the three masks"
    assert not changed[:10].any(), "and not at the edge of the image"


def test_the_coco_document_is_the_services(page: Page, service: Service) -> None:
    everything(page, *WORDS)
    name, content = saved(page, "COCO, JSON")
    assert name == "photo_coco.json"
    assert json.loads(content) == answered(page, service, output="coco", file_name="photo.png")


def test_documents_have_the_words_of_the_answer_if_these_have_changed_since(page: Page) -> None:
    everything(page, *WORDS)
    asked: list[Any] = []
    page.route("**/v1/regions*", lambda route: asked.append(route))  # and it is not answered
    page.get_by_role("button", name="Remove dark").click()
    wait(page, lambda: bool(asked))
    document = json.loads(saved(page, "COCO, JSON")[1])
    assert [category["name"] for category in document["categories"]] == WORDS
    assert {annotation["category_id"] for annotation in document["annotations"]} == {1, 2, 3}
    assert json.loads(saved(page, "Masks, JSON")[1])["classes"] == [[word] for word in WORDS]


def test_a_coco_document_of_a_ranking_names_the_word_that_is_looked_for(page: Page) -> None:
    everything(page, *WORDS)
    page.get_by_label("Look for").select_option("light")
    page.get_by_label("Score from").fill("50")
    expect(names(page)).to_have_count(1)
    (annotation,) = json.loads(saved(page, "COCO, JSON")[1])["annotations"]
    assert annotation["category_id"] == 3
    np.testing.assert_array_equal(coco.decode(annotation["segmentation"]), bright(picture(HEIGHT, WIDTH), 3) == 2)


def test_objects_without_words_are_saved_as_a_coco_document_with_one_category(page: Page) -> None:
    page.locator("#file").set_input_files(PHOTO)
    page.get_by_role("button", name="Objects", exact=True).click()
    point(page, 0.5, 0.5)
    expect(page.locator("#results .quality")).to_have_count(1)
    document = json.loads(saved(page, "COCO, JSON")[1])
    assert document["categories"] == [{"id": 1, "name": "object"}]
    (annotation,) = document["annotations"]
    assert annotation["score"] == pytest.approx(0.9)
    mask = bright(picture(HEIGHT, WIDTH), 2) == 1
    np.testing.assert_array_equal(coco.decode(annotation["segmentation"]), mask)
    assert annotation["bbox"] == coco.toBbox(annotation["segmentation"]).tolist()


def test_label_map_and_cut_out_are_saved_as_png(page: Page, service: Service) -> None:
    everything(page, *WORDS)
    expected = np.zeros((HEIGHT, WIDTH), int)
    regions = answered(page, service)["regions"]
    for number, region in enumerate(regions, 1):
        expected[coco.decode(region["rle"]) == 1] = number
    name, content = saved(page, "Labels, PNG")
    assert name == "photo_regions.png"
    np.testing.assert_array_equal(pixels(content), expected)
    name, content = saved(page, "Cut-out, PNG")
    assert (name, pixels(content).shape) == ("photo_cutout.png", (HEIGHT, WIDTH, 4))
    page.get_by_role("button", name=re.compile("^grey")).click()
    name, content = saved(page, "Cut-out of grey, PNG")
    assert name == "photo_grey_cutout.png"
    cut = pixels(content, "RGBA")
    x0, y0, x1, y1 = next(region["box"] for region in regions if region["names"][0]["name"] == "grey")
    np.testing.assert_array_equal(cut[..., :3], picture(HEIGHT, WIDTH)[y0:y1, x0:x1])
    assert (cut[..., 3] == 255).all()


def test_a_cut_out_is_clear_between_the_masks(page: Page) -> None:
    everything(page, "dark sea", "grey", "light sea")
    page.get_by_label("Name has").fill("sea")
    expect(names(page)).to_have_count(2)
    cut = pixels(saved(page, "Cut-out, PNG")[1], "RGBA")
    np.testing.assert_array_equal(cut[..., 3], np.where(bright(picture(HEIGHT, WIDTH), 3) == 1, 0, 255))


def test_a_class_of_a_label_map_is_cut_out(page: Page) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (x - 100) ** 2 + (y - 120) ** 2 < 50**2
    image = np.where(disc[..., None], 200, 20).astype(np.uint8).repeat(3, 2)
    load(page, "dark", "light")
    page.locator("#file").set_input_files({**PHOTO, "buffer": encoded(image)})
    expect(page.get_by_text("Choose a class in the list or on the image to cut it out.")).to_be_visible()
    point(page, 100 / WIDTH, 120 / HEIGHT)
    name, content = saved(page, "Cut-out of light, PNG")
    cut = pixels(content, "RGBA")
    rows, columns = np.flatnonzero(disc.any(1)), np.flatnonzero(disc.any(0))
    inside = disc[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert name == "photo_light_cutout.png"
    np.testing.assert_array_equal(cut[..., 3], np.where(inside, 255, 0))
    assert (cut[inside][:, :3] == 200).all()
