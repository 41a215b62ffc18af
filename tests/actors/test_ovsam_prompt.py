"""Open-Vocabulary SAM online: a click is answered with the network's mask and names, and an image is encoded once."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from ovss_ray.actors import ovsam_prompt as actor
from ovss_ray.config import loading as configs
from ovss_ray.config.limits import Limits
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import OvssError
from ovss_ray.models.fake import clouds
from ovss_ray.models.ovsam import network
from ovss_ray.models.ovsam.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.deployments.replica import Replica
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.serve.row import Kind, Row
from ovss_ray.structures.masks import rle
from ovss_ray.structures.vocabulary import Vocabulary
from tests.serve.http.test_api import client, encoded
from tests.small_ovsam import SMALL, state_dict

CLASSES = [["red star", "red circle"], "grass", "blue cross", "sand", "water", "wood"]
WORDS = Vocabulary.of(CLASSES)
PICTURE = clouds(1, 1)[0][:60, :80]
IMAGE = encoded(PICTURE)
NAME = sha256(IMAGE).hexdigest()
MODEL = {"name": "ovsam", "stages": [], "benchmarks": [], "answers": ["segment", "regions", "prompt"]}
POINTS, LABELS, BOX = [[20.0, 30.0], [40.0, 35.0]], [1, 0], [10.0, 10.0, 60.0, 50.0]


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A worker of the service with the small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "ovsam_small", SMALL)
        weights = tmp_path_factory.mktemp("online") / "small.pth"
        torch.save(state_dict(SMALL), weights)
        options = {"variant": "ovsam_small", "weights": str(weights), "device": "cpu", "stability_score_thresh": 0.0}
        stages = [{"use": "ovsam_everything", "options": {**options, "points_per_side": 3}}, {"use": "paint"}]
        config = configs.validate({"pools": [{"stages": stages}]}, "test")
        (parts,) = batch.plan(config)
        yield Replica(Placed(tuple(config.stages()), 1, 1, 1.0, 0.0, 4), parts, [WORDS], 60.0, 1 << 24)


@pytest.fixture
def service(replica: Replica) -> Iterator[TestClient]:
    async def send(row: Row, words: Vocabulary, kind: Kind) -> Row:
        replica.working = None  # each test has an event loop of its own
        return await replica(row, words, kind)

    with client(api.build([Model(MODEL, send, WORDS)], Limits(), None)) as asking:
        yield asking


def ask(service: TestClient, path: str = "prompt", **fields: Any) -> dict[str, Any]:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    content = b"" if "image" in fields else IMAGE
    done = service.post(f"/v1/{path}", content=content, params={"classes": json.dumps(CLASSES), **texts})
    assert done.status_code == 200, done.text
    return done.json()


@pytest.mark.parametrize(
    ("sent", "question"),
    [
        ({"points": [[20, 30, 1]]}, {"points": [POINTS[0]]}),
        ({"points": [[20, 30, 1], [40, 35, 0]]}, {"points": [POINTS], "labels": [LABELS]}),
        ({"box": BOX, "base": ["Grass", "unlisted"]}, {"boxes": [BOX], "base": ["grass"]}),
        ({"box": BOX, "points": [[20, 30, 1]]}, {"boxes": [BOX], "points": [[POINTS[0]]]}),
    ],
)
def test_a_prompt_is_answered_with_one_mask_and_five_names_with_three_scores(
    sent: dict[str, Any], question: dict[str, Any], service: TestClient, replica: Replica
) -> None:
    (mask,) = ask(service, **sent)["masks"]
    expected = replica.stages["ovsam_everything"].network.predict(PICTURE, names=WORDS, **question)
    decoded = rle.decode(mask["rle"]["counts"], tuple(mask["rle"]["size"]))
    assert np.count_nonzero(decoded != expected["masks"][0]) <= 2
    assert 0 <= mask["predicted_iou"] <= 1
    branches = {"score": "fused_scores", "head": "head_logits", "clip": "clip_logits"}
    shares = {name: expected[key][0, 0, :-1].softmax(-1).numpy() for name, key in branches.items()}
    best = np.argsort(-shares["score"], kind="stable")[:5]
    assert [name["index"] for name in mask["names"]] == best.tolist()
    assert [name["name"] for name in mask["names"]] == [WORDS.names[k] for k in best]
    for name, share in shares.items():
        assert [entry[name] for entry in mask["names"]] == pytest.approx(share[best].tolist(), abs=1e-3)


def test_names_seen_in_training_change_the_ensemble_only(service: TestClient) -> None:
    click = {"points": [[20, 30, 1]], "top": 6}
    plain, based = (ask(service, **click, **more)["masks"][0]["names"] for more in ({}, {"base": WORDS.names}))
    sides = [{name["name"]: name for name in names} for names in (plain, based)]
    for word in sides[0]:
        first, second = (side[word] for side in sides)
        assert (first["head"], first["clip"]) == (second["head"], second["clip"])
    assert plain[0]["name"] == max(plain, key=lambda name: name["clip"])["name"]
    assert based[0]["name"] == max(based, key=lambda name: name["head"])["name"] != plain[0]["name"]
    done = service.post("/v1/prompt", content=IMAGE, params={"points": "[[20, 30, 1]]", "base": "grass"})
    assert done.status_code == 422
    assert done.json()["detail"] == 'base: invalid value; pass JSON such as ["person", "car"]'


def test_a_further_click_neither_encodes_the_image_nor_the_names(
    service: TestClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    click = {"points": [[20, 30, 1]]}
    first = ask(service, **click)
    model = replica.stages["ovsam_prompt"].model
    assert model is replica.stages["ovsam_everything"].network
    for name in ("embed", "classifier"):
        monkeypatch.setattr(network.Ovsam, name, lambda *inputs: pytest.fail("computed again"))
    monkeypatch.setattr(actor.Stage, "classifier", lambda stage, words: model.classifiers.kept(words.digest))
    again = ask(service, image=NAME, **click)
    assert again["cached"]
    assert again["masks"] == first["masks"]
    assert replica.figures().caches["images"] > PICTURE.nbytes


def test_everything_mode_names_regions_like_clicks_and_ranks_them_by_word(service: TestClient) -> None:
    answer = ask(service, "regions", top=2, ranked=3)
    assert answer["found"] == len(answer["regions"]) > 0
    for region in answer["regions"]:
        assert len(region["names"]) == 2
        assert all(0 <= name[kind] <= 1 for name in region["names"] for kind in ("score", "head", "clip"))
    for ranking in answer["ranking"]:
        for place in ranking["regions"]:
            names = answer["regions"][place["region"]]["names"]
            same = [name["score"] for name in names if name["index"] == ranking["index"]]
            assert same == pytest.approx([place["score"]] * len(same), abs=1e-5)
    assert ask(service, "segment", output="rle")["classes"]


def test_without_classes_there_is_a_mask_and_no_name(service: TestClient) -> None:
    done = service.post("/v1/prompt", content=IMAGE, params={"points": "[[20, 30, 1]]"})
    assert [mask["names"] for mask in done.json()["masks"]] == [[]]


def test_a_prompt_without_an_image_name_and_with_unknown_keys(replica: Replica) -> None:
    stage = replica.stages["ovsam_prompt"]
    question: dict[str, Any] = {"points": POINTS, "labels": LABELS}
    rows = execution.start(1, image=[PICTURE], prompts=[question], vocabulary=[WORDS.digest])
    first = stage(rows, {WORDS.digest: WORDS})
    assert first["top_classes"][0].shape == (1, len(WORDS))
    rows["prompts"][0] = {**question, "mask": 1}
    with pytest.raises(OvssError, match=r"unknown keys of a prompt: \['mask'\]; allowed: points, labels, box"):
        stage(rows, {WORDS.digest: WORDS})
