"""Open-Vocabulary SAM: checkpoints of all layouts, prompts of several images, names, the ensemble, and errors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss_ray.benchmarks.class_lists import vocabulary as listed
from ovss_ray.errors import OvssError
from ovss_ray.models import text, zoo
from ovss_ray.models.ovsam import head, inputs, network, words
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.ovsam.parts import state_of
from ovss_ray.models.ovsam.variants import checkpoints, remaining
from ovss_ray.structures.vocabulary import Vocabulary
from tests import small_ovsam
from tests.small_ovsam import SMALL

NAMES = ["red_circle_or_disc", "Blue/square", "tree"]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return small_ovsam.state_dict(SMALL)


@pytest.fixture(scope="module")
def model(state: dict[str, Tensor]) -> Ovsam:
    return small_ovsam.network(state)


@pytest.fixture(scope="module")
def files(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return small_ovsam.parts(state, tmp_path_factory.mktemp("ovsam"))


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.kron(blocks, np.ones((-(-height // 6), -(-width // 8), 1), np.uint8))[:height, :width]


LAYOUTS: list[tuple[str, list[str]]] = [
    ("ovsam_rn50x16", ["everything"]),
    ("ovsam_rn50x16", ["whole", "clip"]),
    ("ovsam_rn50x16", ["heads", "clip", "neck", "sam"]),
    ("ovsam_rn50x16_lvis", ["heads", "clip", "neck", "sam"]),
    ("ovsam_rn50x16_demo", ["demo", "clip", "neck", "sam", "demo_fpn"]),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_every_layout_of_checkpoints_gives_the_same_network(
    name: str, layout: list[str], model: Ovsam, files: dict[str, Path]
) -> None:
    loaded = network.load(name, [files[part] for part in layout], variant=SMALL)
    expected = model.state_dict()
    assert set(loaded.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_every_tensor_comes_from_the_file_and_entry_from_which_the_official_code_reads_it(
    shared: Path, tmp_path: Path
) -> None:
    sources = json.loads((shared / "parity/ovsam/checkpoint_map.json").read_text())
    contents: dict[str, dict[str, Tensor]] = {}
    for number, (file, key) in enumerate(sources.values()):
        contents.setdefault(file.split("/")[-1].split()[-1], {})[key] = torch.tensor(number)
    paths = []
    for name in checkpoints("ovsam_rn50x16"):
        paths.append(tmp_path / zoo.weights_of(name).file)
        torch.save(contents.pop(paths[-1].name), paths[-1])
    assert not contents
    assert {key: int(value) for key, value in state_of("ovsam_rn50x16", paths).items()} == {
        key: number for number, key in enumerate(sources)
    }


def test_a_first_file_says_which_files_remain(files: dict[str, Path]) -> None:
    name = "ovsam_rn50x16"
    assert remaining(name, files["everything"]) == ()
    assert remaining(name, files["whole"]) == ("clip_rn50x16",)
    assert remaining(name, files["heads"]) == checkpoints(name)[1:]


@pytest.mark.parametrize("layout", [["everything"], ["whole", "clip"], ["heads", "clip", "neck", "sam"]])
def test_paths_are_complete_with_the_files_that_remain(layout: list[str], files: dict[str, Path]) -> None:
    paths = [files[part] for part in layout]
    assert zoo.files("ovsam_rn50x16", paths) == tuple(paths)


def test_the_clip_of_a_whole_network_is_looked_up_by_its_name(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(zoo, "verify", lambda name, file: file)
    (tmp_path / "RN50x16.pt").write_bytes(files["clip"].read_bytes())
    assert zoo.files("ovsam_rn50x16", [files["whole"]]) == (files["whole"], tmp_path / "RN50x16.pt")


def test_files_in_the_wrong_order_are_refused(files: dict[str, Path]) -> None:
    order = [files[part] for part in ("heads", "clip", "sam", "neck")]
    with pytest.raises(OvssError, match=r"no entry begins with 'neck_student\.'"):
        network.load("ovsam_rn50x16", order, variant=SMALL)


def test_prompts_of_several_images_share_passes_and_get_the_masks_of_single_calls(model: Ovsam) -> None:
    pictures = [image(90, 120), image(64, 40, 1), image(90, 120, 2)]
    seen = model.embed(pictures)
    asked = [
        inputs.prompts([[10, 20], [100, 80]], None, None, seen[0].placed),
        inputs.prompts([[[5, 6], [30, 50]]], [[1, 0]], None, seen[1].placed),
        inputs.prompts(None, None, [[10, 20, 60, 70]], seen[2].placed),
    ]
    passes: list[int] = []
    hook = model.mask_decoder.register_forward_pre_hook(lambda module, given: passes.append(len(given[0])))
    together = model.masks(seen, asked)
    hook.remove()
    assert sorted(passes) == [1, 3], "prompts with two tokens share a pass"
    for encoded, picture, prompts, logits in zip(seen, pictures, asked, together, strict=True):
        alone = model.embed([picture])[0]
        assert torch.allclose(encoded.neck, alone.neck, atol=1e-4)
        assert torch.allclose(model.masks([encoded], [prompts])[0], logits, atol=1e-4)
    assert not torch.allclose(together[0][0], together[0][1])


def test_an_image_is_encoded_once_for_all_its_prompts(model: Ovsam) -> None:
    picture = image(90, 120)
    seen = model.embed([picture])[0]
    passes: list[int] = []
    hook = model.backbone.register_forward_pre_hook(lambda module, given: passes.append(len(given[0])))
    first = model.predict(seen, points=[[10, 20], [100, 80]], names=NAMES)
    second = model.predict(seen, boxes=[[5, 5, 90, 70]], names=NAMES)
    whole = model.predict(picture, points=[[10, 20], [100, 80]], names=NAMES)
    hook.remove()
    assert passes == [1]
    assert first["masks"].shape == (2, 90, 120)
    assert second["masks"].shape == (1, 90, 120)
    assert torch.equal(first["fused_scores"], whole["fused_scores"])
    assert first["head_logits"].shape == (2, 1, 4)


def test_the_paths_differ_in_resize_regions_and_branches(model: Ovsam) -> None:
    picture = image(341, 512)
    demo = model.predict(picture, points=[[10, 20]], names=NAMES, path="demo")
    evaluation = model.predict(picture, points=[[10, 20]], names=NAMES)
    assert demo["masks"].shape == (1, 170, 256), "rounded down"
    assert "clip_logits" not in demo
    assert "fused_scores" in evaluation
    assert inputs.placed(picture, "evaluation", 256).resized == (171, 256)
    with pytest.raises(OvssError, match=r"unknown mode path='official'; pass one of \('evaluation', 'demo'\)"):
        model.embed([picture], "official")  # type: ignore[arg-type]


def test_official_uses_the_boxes_of_clip_in_pixels_of_the_photograph(
    model: Ovsam, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = model.embed([image(512, 512)])[0]
    boxes: list[Tensor] = []
    embed = Ovsam.clip_embeddings

    def kept(self: Ovsam, encoded: inputs.Embedded, corners: Tensor) -> Tensor:
        boxes.append(corners)
        return embed(self, encoded, corners)

    monkeypatch.setattr(Ovsam, "clip_embeddings", kept)
    for official in (False, True):
        model.predict(seen, [[10, 20]], clip_boxes=[[10, 20, 200, 100]], names=NAMES, official=official)
    model.predict(seen, [[10, 20]], names=NAMES)
    assert boxes[0].tolist() == [[5, 10, 100, 50]]
    assert boxes[1].tolist() == [[10, 20, 200, 100]]
    assert boxes[2].shape == (1, 4), "without boxes, CLIP sees the box of the mask"


def test_names_have_synonyms_by_the_rules_of_gen_cls() -> None:
    assert words.synonyms(["wine_bottle"]) == ["wine bottle"]
    assert words.synonyms(["Headlight_or_headlamp", "lamp/light,bulb "]) == [
        "headlight", "headlamp", "lamp", "light", "bulb",
    ]  # fmt: skip
    official = words.synonyms(["tape_(sticky_cloth_or_paper)"])
    assert official == ["tape (sticky cloth", "paper)"], "as in the official code, of LVIS's name"
    (of_list,) = [names for names in listed("lvis").classes if names[0].startswith("tape (sticky")]
    assert words.synonyms(of_list) == official
    with pytest.raises(OvssError, match="a class without a name"):
        words.synonyms([",_"])


def test_a_class_is_as_likely_as_its_likeliest_synonym(model: Ovsam) -> None:
    vocabulary = Vocabulary.of(NAMES)
    rows = model.classifier(vocabulary)
    assert rows.shape == (5, SMALL.features)
    features = torch.randn(3, SMALL.features, generator=torch.Generator().manual_seed(0))
    scores = head.logits(features, words.grouped(rows, vocabulary))
    cosines = torch.nn.functional.normalize(features, dim=-1) @ rows.T
    expected = np.exp(4.6052) * torch.stack([part.amax(1) for part in cosines.split([2, 2, 1], 1)], 1)
    assert torch.allclose(scores[:, :3], expected.float(), atol=1e-4)
    assert not scores[:, 3].any(), "no object"


def test_a_vocabulary_is_embedded_once(model: Ovsam) -> None:
    vocabulary = Vocabulary.of(["one name", "another"])
    assert model.classifier(vocabulary) is model.classifier(vocabulary)


def test_long_vocabularies_are_embedded_in_chunks_with_the_same_result(
    model: Ovsam, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, templates = [f"name {i % 40}" for i in range(60)], text.TEMPLATES["vild"]
    whole = text.embed(model.words, names, templates)
    most: list[int] = []
    embed: Callable[..., Tensor] = text.embed_prompts

    def counted(tower: text.Tower, prompts: list[str], listener: Callable[[int], None]) -> Tensor:
        most.append(len(prompts))
        return embed(tower, prompts, listener)

    monkeypatch.setattr(text, "embed_prompts", counted)
    monkeypatch.setattr(text, "NAMES", 7)
    assert torch.allclose(text.embed(model.words, names, templates), whole, atol=1e-6)
    assert max(most) == 7 * len(templates)
    assert sum(most) == 40 * len(templates), "repeated names are embedded once"


def test_scores_of_many_classes_are_computed_in_chunks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.Generator().manual_seed(0)
    features, rows = torch.randn(9, 16, generator=drawn), torch.randn(50, 16, generator=drawn)
    classes = text.Classifier.of(rows, [2] * 25)
    whole = head.logits(features, classes)
    monkeypatch.setattr(head, "SCORES", 120)
    assert torch.allclose(head.logits(features, classes), whole)
    assert head.logits(features[:0], classes).shape == (0, 26)


def test_the_ensemble_trusts_the_head_for_base_classes_and_clip_for_novel_ones() -> None:
    own, clip = torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    base, novel = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    mask = torch.ones(1, 64, 64)
    scores = head.ensemble(own, clip, mask, base, novel)[0]
    first, second = own.log_softmax(-1)[0], clip.log_softmax(-1)[0]
    assert torch.allclose(scores[[0, 3]], 0.9 * first[[0, 3]] + 0.1 * second[[0, 3]])
    assert torch.allclose(scores[1], 0.1 * first[1] + 0.9 * second[1])
    assert scores[2] == -1000
    small = -torch.ones(1, 64, 64)
    small[0, 0, 1] = 1
    assert torch.allclose(head.ensemble(own, clip, small, base, novel)[0, [0, 1, 3]], first[[0, 1, 3]])


def test_the_box_of_a_mask_has_exclusive_ends_and_an_empty_mask_has_none() -> None:
    masks = -torch.ones(2, 8, 8)
    masks[0, 2:5, 1:7] = 1
    assert head.boxes(masks, 4).tolist() == [[4, 8, 28, 20], [0, 0, 0, 0]]
    sides = torch.tensor([0, 10, 111, 112, 224, 448, 4000.0])
    corners = torch.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert head.levels(corners).tolist() == [0, 0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "empty prompt; pass points, boxes, or both"),
        ({"points": [1, 2]}, r"points: expected finite numbers of shape \(P, 2\) or \(P, n, 2\), found .* \(2,\)"),
        ({"boxes": [[1, 2, 3]]}, r"boxes: expected finite numbers of shape \(P, 4\)"),
        ({"points": [[1, 2]], "boxes": [[0, 0, 4, 4]] * 2}, "points are for 1 prompts, but boxes for 2"),
        ({"points": [[1, 2]], "labels": [2]}, "labels: expected 0 or 1 per point"),
        ({"points": [[1, 2], [3, 4]], "labels": [1, 0, 1]}, r"of shape \(2, 1\), found an array of shape \(3,\)"),
        ({"points": [[[1, 2]] * 2] * 2, "labels": [[1, 0], [1]]}, "0 or 1 for each of the 2 points of a prompt, found"),
        ({"boxes": [[0, 0, 4, 4]], "labels": [1]}, "labels without points; pass points"),
        ({"points": [[1, 2]], "official": True}, "pass boxes or clip_boxes"),
        ({"points": [[1, 2]], "clip_boxes": [[0, 0, 4, 4]] * 2}, "2 clip_boxes for 1 prompts"),
        ({"points": [[1, 2]], "base": ["cat"]}, "unknown class 'cat'"),
        ({"points": [[1, 2]], "names": None}, "expected either names or embeddings, found both or neither"),
    ],
)
def test_wrong_prompts_are_refused(model: Ovsam, asked: dict[str, object], message: str) -> None:
    seen = model.embed([image(20, 30)])[0]
    with pytest.raises(OvssError, match=message):
        model.predict(seen, **{"names": NAMES, **asked})  # type: ignore[arg-type]


def test_class_embeddings_of_gen_cls_give_the_scores_of_their_names(model: Ovsam) -> None:
    seen = model.embed([image(20, 30)])[0]
    rows = model.classifier(Vocabulary.of(NAMES))
    stored = torch.stack([rows[[0, 1]], rows[[2, 3]], rows[[4, 4]]])
    by_name = model.predict(seen, [[5, 5]], names=NAMES, base=["tree"])
    by_embedding = model.predict(seen, [[5, 5]], embeddings=stored, base=[2])
    assert torch.allclose(by_name["fused_scores"], by_embedding["fused_scores"], atol=1e-5)
