"""Captions of image-to-text models with random weights and tiny sizes, offline; and of a captioner of one's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.actors import captions
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from tests import small_captioner

WORDS = ["a", "the", "dog", "cat", "tree", "street", "sky", "red", "blue", "on", "with", "of", "photo"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_captioner.encoder_decoder(tmp_path_factory.mktemp("captioner"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_captioner.blip(tmp_path_factory.mktemp("blip"))


def described(folder: Path | str, images: np.ndarray = IMAGES, ids: str = "abc", **options: Any) -> list[dict]:
    config = StageConfig(use="captions", options={"model": str(folder), "device": "cpu", "tokens": 6, **options})
    batch = execution.start(len(images), image_id=list(ids), image=list(images), benchmark=["x"] * len(images))
    done = execution.run({"captions": config.build()}, batch, {})
    assert list(done["error"]) == [""] * len(images)
    return list(done["captions"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder_decoder", "blip"])
def test_images_are_described_offline_and_equally_in_any_batch(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    together = described(folder)
    assert all(len(one["texts"]) == len(one["scores"]) == 1 for one in together)
    assert all(set(text.split()) <= set(small_captioner.WORDS) | {"[UNK]"} for one in together for text in one["texts"])
    assert any(one["texts"][0] for one in together)
    assert all(one["scores"][0] < 0 for one in together)
    alone = described(folder, batch=1)
    assert [one["texts"] for one in alone] == [one["texts"] for one in together]
    exact = described(folder, exact=True)
    assert exact == described(folder, IMAGES[::-1], "cba", exact=True)[::-1], "to the last bit"


@pytest.mark.slow
def test_sampled_captions_depend_on_seed_and_image_alone(encoder_decoder: Path) -> None:
    sampled = described(encoder_decoder, sample=True, count=4)
    assert len({text for one in sampled for text in one["texts"]}) > 4
    assert all(one["scores"] == sorted(one["scores"], reverse=True) for one in sampled)
    assert sampled == described(encoder_decoder, IMAGES[::-1], "cba", sample=True, count=4)[::-1]
    assert sampled != described(encoder_decoder, sample=True, count=4, seed=1)
    beams = described(encoder_decoder, beams=3, count=3)
    assert all(len(set(one["texts"])) > 1 and len(one["texts"]) == 3 for one in beams)


@pytest.mark.slow
def test_a_prompt_is_continued_and_not_part_of_the_caption(blip: Path) -> None:
    prompted = described(blip, prompt="a photo of")
    assert all(not text.startswith("a photo of") for one in prompted for text in one["texts"])
    assert prompted != described(blip)


@pytest.mark.slow
def test_the_weights_decide_the_digest_and_other_folders_are_refused(encoder_decoder: Path, tmp_path: Path) -> None:
    listed = captions.model_files(str(encoder_decoder))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in listed}
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(OvssError, match="no weights in safetensors"):
        captions.model_files(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(OvssError, match="not an image-to-text model that transformers can load"):
        StageConfig(use="captions", options={"model": str(tmp_path)}).build()


def test_a_captioner_of_ones_own_is_a_function_and_its_files_are_part_of_the_digest() -> None:
    """Without transformers."""
    options = {"captioner": "tests.actors.bright_captioner", "count": 2}
    assert [file.name for file in captions.Stage.files(captions.Stage.Config(**options))] == ["bright_captioner.py"]
    first, *_ = described("", **options)
    assert first == {"texts": [f"bright {IMAGES[0].mean():.0f}", "a picture"], "scores": [0.0, -1.0]}
    with pytest.raises(OvssError, match=r"no module named 'tests\.actors\.none'"):
        captions.Stage.files(captions.Stage.Config(captioner="tests.actors.none"))


def test_the_model_of_a_captioner_without_files_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(**given: str) -> dict[str, object]:
        identified: dict[str, object] = StageConfig(use="captions", options=given).identity()["options"]
        return identified

    own = {"captioner": "tests.actors.bright_captioner"}
    assert "model" not in options(model="/a/folder")
    assert "model" not in options(**own, model="large"), "its files are"
    monkeypatch.delattr("tests.actors.bright_captioner.files")
    assert options(**own, model="large")["model"] == "large"
    assert "model" not in options(**own), "as in earlier versions"


def test_several_captions_need_beams_or_chance() -> None:
    with pytest.raises(ValueError, match=r"3 captions need at least 3 beams\. Set `beams` to 3, or set `sample`"):
        captions.Stage.Config(count=3)


def test_a_model_that_is_not_here_is_named_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OvssError, match=r"'nobody/none' is neither a folder.*--set captions\.model=FOLDER"):
        captions.model_files("nobody/none")
