"""Fusioner's network in small: checkpoints, predictions, and what they depend on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss_ray import models
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import photograph, zoo
from ovss_ray.models.fake import clouds
from ovss_ray.models.fusioner import fake, network
from ovss_ray.models.fusioner.network import Fusioner
from ovss_ray.models.fusioner.variants import VARIANTS, remaining
from ovss_ray.models.fusioner.windows import Layout
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_fusioner import SMALL, small_checkpoint

IMAGE = clouds(0)[0][:50, :70]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Fusioner:
    path = small_checkpoint(tmp_path_factory.mktemp("fusioner") / "small.pth")
    return network.load("fusioner_small", [path], variant=SMALL)


def test_the_result_has_the_documented_arrays(model: Fusioner) -> None:
    whole = model.predict(IMAGE, ["red circle", "star"], data_set="coco")
    assert set(whole) == {"text_embedding", "logits", "pred"}
    assert (whole["text_embedding"].shape, whole["logits"].shape) == ((2, 32), (2, 50, 70))
    assert (whole["pred"].shape, whole["pred"].dtype) == ((2, 50, 70), np.uint8)
    square = model.predict(IMAGE, ["star"], resolution="square_224")
    shapes = {name: tuple(values.shape) for name, values in square.items()}
    assert shapes.pop("text_embedding") == (1, 32)
    assert shapes.pop("img_tokens") == (16, 32)
    assert shapes == {
        "fusion_patches": (16, 32),
        "fusion_text": (1, 32),
        "decoder": (32, 32, 32),
        "logits": (1, 32, 32),
        "pred": (1, 32, 32),
    }


def test_a_photograph_of_one_window_has_the_logits_of_the_square(model: Fusioner) -> None:
    image = IMAGE[:32, :32]
    whole, square = (model.predict(image, ["star"], resolution=form) for form in ("original", "square_224"))
    assert torch.equal(whole["logits"], square["logits"])


def test_the_best_class_wins_if_its_logit_is_above_0_and_the_rest_is_background(model: Fusioner) -> None:
    made = model.predict(IMAGE, Vocabulary.of(["red circle", ["background", "sky"], "star"]))
    best, highest = made["logits"].argmax(0).numpy(), made["logits"].amax(0).numpy()
    assert np.array_equal(made.label_map, np.where(highest > 0, np.array([0, 2])[best], 1))
    assert np.array_equal(made["pred"].astype(bool), np.stack([(best == i) & (highest > 0) for i in range(2)]))
    assert len(np.unique(made.label_map)) == 3
    alone = model.segment(IMAGE, ["star"])
    assert set(np.unique(alone)) == {0, NONE}


def test_a_logit_of_exactly_0_is_background() -> None:
    scores = torch.tensor([[[0.0, 1e-30, -1.0, torch.nan]]])
    assert network.label_map(scores, Vocabulary.of(["background", "car"])).tolist() == [[0, 1, 0, 0]]


def test_the_names_of_one_call_influence_each_other_but_the_image_tokens_do_not_depend_on_them(model: Fusioner) -> None:
    both = model.predict(IMAGE, ["red circle", "star"], resolution="square_224")
    alone = model.predict(IMAGE, ["red circle"], resolution="square_224")
    assert torch.equal(both["img_tokens"], alone["img_tokens"])
    assert not torch.allclose(both["logits"][0], alone["logits"][0], atol=1e-3)


def test_the_normalisation_is_that_of_the_data_set_unless_the_variant_has_its_own(model: Fusioner) -> None:
    pascal, coco = (model.preprocess(IMAGE, name).windows for name in ("pascal", "coco"))
    assert not torch.allclose(pascal, coco)
    with torch.device("meta"):
        own = Fusioner(replace(SMALL, colours="clip"))
    assert torch.equal(own.preprocess(IMAGE, "pascal").windows, own.preprocess(IMAGE, "coco").windows)


def test_a_variant_may_resize_photographs_and_place_its_windows(model: Fusioner) -> None:
    with torch.device("meta"):
        resizing = Fusioner(replace(SMALL, short_side=40, every=16))
    inputs = resizing.preprocess(IMAGE, "pascal")
    assert inputs.layout == Layout(40, 56, 32, 16, (50, 70))
    assert inputs.windows.shape == (6, 3, 32, 32)
    pixels = resizing.normalised(photograph.resized(IMAGE, (40, 56)).permute(1, 2, 0).numpy())
    assert torch.equal(inputs.windows[0], pixels[:, :32, :32])
    logits = inputs.layout.mean(window[:1] for window in inputs.windows)
    assert logits.shape == (1, 50, 70)
    assert not model.preprocess(IMAGE).layout.original


def test_unknown_options_and_a_vocabulary_of_background_alone_are_refused(model: Fusioner) -> None:
    with pytest.raises(UnknownName, match=r"unknown data set 'cooc'\. Did you mean 'coco'"):
        model.predict(IMAGE, ["star"], data_set="cooc")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unknown resolution 'square'"):
        model.predict(IMAGE, ["star"], resolution="square")  # type: ignore[arg-type]
    with pytest.raises(OvssError, match="the only class is 'background'"):
        model.predict(IMAGE, ["background"])


def test_a_name_is_embedded_once_for_all_vocabularies(model: Fusioner, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    tower = model.text_model
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda tokens: counted.append(len(tokens)) or forward(tokens))
    first, second = network.embed(
        tower, [Vocabulary.of(["background", "star"]), Vocabulary.of(["star", "moon"])], SMALL
    )
    assert sum(counted) == 2 * 32
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_the_trained_part_and_a_clip_make_the_network_of_a_whole_checkpoint(tmp_path: Path, kind: str) -> None:
    import safetensors.torch

    state = fake.state_dict(replace(SMALL, clip=VARIANTS["fusioner_tiny"].clip))
    trained = {key: value for key, value in state.items() if key.startswith(("fusion.", "decoder."))}
    parts = tmp_path / f"trained.{kind}"
    if kind == "pth":
        torch.save({"model": trained}, parts)
    else:
        safetensors.torch.save_file(trained, parts)
    assert remaining("fusioner_vit_l_14", parts) == ("clip_vit_l_14",)
    clip = zoo.find("clip_tiny")
    variant = replace(SMALL, clip=VARIANTS["fusioner_tiny"].clip)
    two = network.load("fusioner_small", [parts, clip], variant=variant)
    official = {
        key.replace("img_model.resblocks", "img_model.transformer.resblocks"): v for key, v in two.state_dict().items()
    }
    torch.save({"model": official}, tmp_path / "whole.pth")
    assert remaining("fusioner_vit_l_14", tmp_path / "whole.pth") == ()
    one = network.load("fusioner_small", [tmp_path / "whole.pth"], variant=variant)
    values = one.state_dict()
    assert all(torch.equal(value, values[key]) for key, value in two.state_dict().items())
    assert torch.isfinite(two.predict(clouds(0)[0][:128, :128], ["red star"])["logits"]).all()


def test_a_whole_checkpoint_needs_no_file_of_clip_and_a_trained_part_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    whole, part = small_checkpoint(tmp_path / "whole.pth"), tmp_path / "part.pth"
    torch.save({"model": {"fusion.cls_emb": torch.zeros(1)}}, part)
    assert zoo.files("fusioner_vit_l_14", [whole]) == (whole,)
    monkeypatch.setattr(zoo, "verify", lambda name, file: file)
    (tmp_path / "ViT-L-14.pt").write_bytes(b"x")
    assert zoo.files("fusioner_vit_l_14", [part]) == (part, tmp_path / "ViT-L-14.pt")
    assert zoo.files("fusioner_vit_l_14", [part, whole]) == (part, whole)


def test_without_trained_weights_the_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"not published.*--set fusioner\.weights=PATH.*ovss weights fake"):
        models.load("fusioner_vit_l_14")
    frozen = {key: value for key, value in fake.state_dict(SMALL).items() if not key.startswith(("fusion", "decoder"))}
    torch.save({"model": frozen}, tmp_path / "frozen.pth")
    with pytest.raises(OvssError, match=r"no trained fusion and decoder, so the predictions .* be random"):
        network.load("fusioner_small", [tmp_path / "frozen.pth"], variant=SMALL)
    torch.save({"model": {**frozen, "fusion.cls_emb": torch.zeros(1, 32)}}, tmp_path / "partly.pth")
    with pytest.raises(OvssError, match=r"not a checkpoint of fusioner_small\. Missing: fusion\.proj_patch"):
        network.load("fusioner_small", [tmp_path / "partly.pth"], variant=SMALL)
