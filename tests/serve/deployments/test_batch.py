"""What a worker of the service does with requests: the stages of the batch path, on rows that came one by one."""

from pathlib import Path

import numpy as np
import pytest

from ovss_ray.config import loading as configs
from ovss_ray.config.run import RunConfig
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.errors import OvssError
from ovss_ray.models.fake import clouds
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.row import FORGOTTEN, NO_IMAGE, Kind, pointed, row
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary
from tests import toys
from tests.serve.bright import picture
from tests.small_scan import small_checkpoint

TWO, THREE = Vocabulary.of(["dark", "bright"]), Vocabulary.of(["a", "b", "c"])


def shipped(name: str) -> RunConfig:
    return configs.load(shipped_configs()[name])


def test_every_pool_hands_on_what_the_next_one_reads_and_the_last_one_what_is_answered() -> None:
    sam, alpha_clip, paint = (parts["segment"].keep for parts in batch.plan(shipped("sam_alpha_clip")))
    assert {"image", "boxes", "bits"} <= sam
    assert "image" not in alpha_clip
    assert paint == {"image_id", "vocabulary", "error", "prediction", "boxes", "bits", "scores", "seconds"}
    (san,) = batch.plan(shipped("san_tiny"))
    assert san["segment"].keep == {"image_id", "vocabulary", "error", "prediction", "seconds"}
    assert san.keys() == {"segment"}, "without regions there are none to tell"


def test_a_method_that_draws_random_numbers_answers_requests_as_a_run_does(tmp_path: Path) -> None:
    """Whatever other requests are in the batch: the draws depend on the pixels, and no benchmark means the defaults."""
    (parts,) = batch.plan(shipped("scan_vitB"))
    assert parts.keys() == {"segment"}
    weights = small_checkpoint(tmp_path / "small.pth")
    options = {"weights": str(weights), "ensemble_weight": 0.0, "replace_ratio": 0.5, "exact": True}
    stages = {"scan": StageConfig(use="tests.small_scan_stage", options=options).build()}
    words = Vocabulary.of(["grass", "water", "brick", "sand", "sky", "wood", "red circle", "blue square"])
    images = [image[:60, : 80 + 4 * i] for i, image in enumerate(clouds(3, 3))]
    answers = batch.run(stages, [(row(image, words), words) for image in images], {"prediction", "error"})
    for image, answer in zip(images, answers, strict=True):
        rows = execution.start(1, image=[image], vocabulary=[words.digest], benchmark=["camvid"])
        done = execution.run(stages, rows, {words.digest: words})
        assert answer["error"] == done["error"][0] == ""
        assert np.array_equal(answer["prediction"], done["prediction"][0])


@pytest.mark.parametrize(
    ("kind", "stages", "told"),
    [
        ("segment", (("sam",), ("alpha_clip",), ("paint",)), {"prediction", "boxes", "bits", "scores"}),
        ("regions", (("sam",), ("alpha_clip",), ()), {"size", "boxes", "bits", "scores", "predicted_iou"}),
        (
            "prompt",
            (("sam_prompt",), ("alpha_clip",), ()),
            {"size", "boxes", "bits", "scores", "predicted_iou", "cached"},
        ),
        ("masks", (("sam_prompt",), (), ()), {"size", "boxes", "bits", "predicted_iou", "cached"}),
    ],
)
def test_each_kind_of_answer_goes_through_the_stages_that_it_needs(
    kind: Kind, stages: tuple[tuple[str, ...], ...], told: set[str]
) -> None:
    parts = [parts[kind] for parts in batch.plan(shipped("sam_alpha_clip"))]
    assert tuple(part.stages for part in parts) == stages
    last = [part for part in parts if part.stages][-1]
    assert last.keep == {"image_id", "vocabulary", "error", "seconds", *told}
    if kind == "prompt":
        assert {"image", "vocabulary", "boxes", "bits", "size", "cached"} <= parts[0].keep


def test_names_are_those_of_the_last_stage_with_scores() -> None:
    stages = [{"use": "ovsam_everything", "options": {"variant": "ovsam_tiny"}}, {"use": "paint"}]
    naming = {"use": "alpha_clip", "options": {"variant": "alpha_clip_tiny"}}
    for listed, best in ((stages, {"top_classes", "top_scores"}), ([stages[0], naming, stages[1]], set())):
        (parts,) = batch.plan(configs.validate({"pools": [{"stages": listed}]}, "test"))
        for kind in ("regions", "prompt"):
            assert {"top_classes", "top_scores", "scores"} & parts[kind].keep == {"scores", *best}


class Held:
    """Remembers one image, as `mine`."""

    def image(self, name: str) -> np.ndarray | None:
        return picture(8, 10) if name == "mine" else None


def test_a_prompt_gets_the_image_that_it_names_or_is_told_to_send_it_again() -> None:
    click = {"points": [[9, 7]], "labels": [1]}
    for sent, name, cached, size, error in (
        (NO_IMAGE, "mine", True, [8, 10], ""),
        (picture(8, 10), "mine", True, [8, 10], ""),
        (picture(12, 14), "other", False, [12, 14], ""),
        (NO_IMAGE, "other", False, [0, 0], FORGOTTEN),
    ):
        done = batch.recall(Held(), pointed(sent, TWO, {**click, "image": name}))
        assert (done["cached"], done["size"].tolist(), done["error"]) == (cached, size, error)
        assert done["image"].shape[:2] == tuple(size)
    for beside in ({"points": [[11, 2]], "labels": [1]}, {"box": [1, 1, 4, 9]}, {"box": [-1, 1, 4, 4]}):
        done = batch.recall(Held(), pointed(NO_IMAGE, TWO, {**beside, "image": "mine"}))
        assert "is outside the image: 10 × 8 pixels" in done["error"]


@pytest.mark.parametrize("name", ["predictions", "oracle", "truth_alpha_clip_tiny"])
def test_a_config_that_needs_more_than_an_image_cannot_be_served(name: str) -> None:
    config = configs.load(shipped_configs()[name], ["predictions.path=."] if name == "predictions" else [])
    with pytest.raises(OvssError, match="image"):
        batch.plan(config)


@pytest.mark.parametrize("name", ["ovsam_tiny", "sam_alpha_clip_prompt_tiny"])
def test_a_config_that_prompts_with_true_instances_names_one_that_can_be_served(name: str) -> None:
    with pytest.raises(OvssError, match=r"the true instances of a benchmark, .* such as ovsam_everything, ovsam_ever"):
        batch.plan(configs.load(shipped_configs()[name]))
    for served in batch.POINTED.replace(" or ", ", ").split(", "):
        assert "prompt" in batch.plan(configs.load(shipped_configs()[served]))[0]


def test_requests_with_unlike_vocabularies_share_a_batch_and_a_bad_one_costs_itself() -> None:
    seen: list[int] = []

    class Picky(toys.Stage):
        def __call__(self, rows: Batch, vocabularies: Vocabularies) -> Batch:
            seen.append(len(rows["image"]))
            if any(image.shape[0] == 1 for image in rows["image"]):
                raise ValueError("too low")
            return super().__call__(rows, vocabularies)

    asked = [(row(picture(height), words), words) for height, words in ((8, TWO), (9, THREE), (1, TWO), (10, TWO))]
    done = batch.run({"toys": Picky(toys.Stage.Config())}, asked, {"prediction", "error"})
    assert seen[0] == 4
    assert [bool(one["error"]) for one in done] == [False, False, True, False]
    for one, (given, words) in zip(done, asked, strict=True):
        if not one["error"]:
            np.testing.assert_array_equal(one["prediction"], toys.bright(given["image"], len(words)))
        assert one.keys() == {"prediction", "error"}


def test_stages_are_warmed_with_what_those_before_them_would_hand_on(tmp_path: Path) -> None:
    config = configs.load(shipped_configs()["sam_alpha_clip_tiny"])
    names = {stage.use: stage for stage in config.stages()}
    witness = tmp_path / "witness"
    toy = toys.Stage(toys.Stage.Config(witness=str(witness)))
    batch.warm({"toys": toy}, [TWO, THREE])
    assert len(witness.read_text().splitlines()) == 2
    batch.warm({"paint": names["paint"].build()}, [TWO])
    batch.warm({"alpha_clip": names["alpha_clip"].build()}, [TWO])
    batch.warm({"sam_prompt": StageConfig(use="sam_prompt", options={"variant": "sam_tiny"}).build()}, [TWO])

    assert batch.pace({"toys": toy}, TWO).fixed > 0
    assert len(witness.read_text().splitlines()) == 4

    class Broken(Stage):
        reads, writes = ("image",), ("prediction",)

        def __call__(self, rows: Batch, vocabularies: Vocabularies) -> Batch:
            raise OvssError("no luck")

    with pytest.raises(OvssError, match=r"the warm-up image failed with classes dark, bright, …: .*no luck"):
        batch.warm({"broken": Broken(Broken.Config())}, [TWO])
