"""The stage `tags`, and segmenters after it: they get the words of each image and need no change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.actors import tags
from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig, build_all
from ovss_ray.runs.plan import plan_run
from ovss_ray.structures import words
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

FEW = ("sunset", "wood", "striped pink bar", "dog")
SAM = {"variant": "sam_tiny", "points_per_side": 3, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}
SEGMENTERS: dict[str, list[dict[str, Any]]] = {
    "san": [{"use": "san", "options": {"variant": "san_tiny"}}],
    "sam": [{"use": "sam", "options": SAM}, {"use": "alpha_clip", "options": {"variant": "alpha_clip_tiny"}}],
    "scan": [{"use": "scan", "options": {"variant": "scan_tiny"}}],
    "fusioner": [{"use": "fusioner", "options": {"variant": "fusioner_tiny"}}],
}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [scenes.of_address(f"all/validation/{number}")[0].image for number in range(2)]


@pytest.fixture(scope="module")
def tagger() -> Any:
    return StageConfig(use="tags", options={"exact": True}).build(benchmarks=catalog.Benchmarks())


def rows(images: list[np.ndarray], **columns: Any) -> Batch:
    sizes = [np.array(image.shape[:2], np.int32) for image in images]
    names = [f"i{number}" for number in range(len(images))]
    return execution.start(len(images), image_id=names, image=images, size=sizes, **columns)


def test_words_are_the_confident_names_of_large_masks_by_area(tagger: Any, images: list[np.ndarray]) -> None:
    names, model = scenes.BENCHMARKS["all"].vocabulary, tagger.model
    together = tagger(rows(images), {})["words"]
    for image, value in zip(images, together, strict=True):
        predicted = model.predict(image, names)
        probabilities, masks = predicted.class_logits.softmax(-1)[:, :-1].numpy(), predicted.mask_logits.numpy()
        largest: dict[str, tuple[float, float]] = {}
        for query, mask in enumerate(masks):
            area, best = float((mask > 0).mean()), int(probabilities[query].argmax())
            if area > 0.003 and probabilities[query, best] > 0.05:
                before = largest.get(names.names[best], (0.0, 0.0))
                largest[names.names[best]] = max(before[0], area), max(before[1], float(probabilities[query, best]))
        ordered = sorted(largest, key=lambda name: -largest[name][0])
        assert value["classes"] == [[name] for name in ordered]
        assert value["scores"] == pytest.approx([largest[name][1] for name in ordered], abs=1e-4)
        assert value["source"] == "tags san_tiny"
        assert value == tagger(rows([image]), {})["words"][0]


def test_a_list_may_be_a_file_and_nothing_confident_means_no_words(images: list[np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sand\tbeach\n\ndog\n")
    options = {"words": str(tmp_path / "names.txt"), "threshold": 1.0}
    config = tags.Stage.Config(**options)
    assert tags.Stage.files(config)[-1] == tmp_path / "names.txt"
    assert tags.Stage(config)(rows(images[:1]), {})["words"][0]["classes"] == []
    fallback = tags.Stage(tags.Stage.Config(**options, fallback="object"))
    assert fallback(rows(images[:1]), {})["words"][0]["classes"] == [["object"]]
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(OvssError, match="empty list"):
        tags.Stage.files(config)


def test_a_list_of_names_is_checked_before_the_run_and_its_path_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("dog\n")
    assert tags.Stage.Config(words="names.txt").words == str(tmp_path / "names.txt")
    for faulty, message in ((["a", "b\tc"], "invalid character"), ([], "empty vocabulary")):
        with pytest.raises(ValueError, match=message):
            tags.Stage.Config(words=faulty)
    stages = [{"use": "tags", "options": {"words": "nosuch"}}, {"use": "san", "options": {"variant": "san_tiny"}}]
    config = configs.validate({"benchmarks": ["scenes:all"], "limit": 1, "pools": [{"stages": stages}]}, "test")
    with pytest.raises(OvssError, match="unknown benchmark 'nosuch'"):
        plan_run(config, str(tmp_path / "run"))


class Given(Stage):
    """Words of the first image; the second has none."""

    reads = ()
    writes = ("words",)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        values = {"i0": words.of(FEW, "test"), "i1": words.of([], "test")}
        return {"words": column(values[image] for image in batch["image_id"])}


def test_a_segmenter_with_the_same_network_takes_the_features_of_the_tagger(
    tagger: Any, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [np.ascontiguousarray(image[:48, :64]) for image in images]
    options = {"variant": "san_tiny", "exact": True}
    pair = [StageConfig(use=use, options=options) for use in ("tags", "san")]
    shared = build_all(pair, benchmarks=catalog.Benchmarks())
    alone = {"tags": tagger, "san": pair[1].build(network=tagger.network)}
    tagger.network.recent = None
    forward, passes = type(tagger.network).forward, []
    monkeypatch.setattr(type(tagger.network), "forward", lambda *given: passes.append(given[0]) or forward(*given))
    expected, got = (execution.run(stages, rows(small), {}) for stages in (alone, shared))
    assert passes == [tagger.network] * 4 + [shared["tags"].network] * 2
    for name in ("words", "prediction", "error"):
        assert all(np.array_equal(*values) for values in zip(expected[name], got[name], strict=True)), name
    features = shared["san"].network.recent.find(small)
    assert shared["san"].kept()["features"] == features.nbytes > 0
    assert "features" not in {**alone["san"].kept(), **shared["tags"].kept()}
    other = execution.run({"san": shared["san"]}, rows([255 - small[0]], vocabulary=["v"]), {"v": Vocabulary.of(FEW)})
    assert len(passes) == 7, "the features of another photograph"
    assert not np.array_equal(other["prediction"][0], got["prediction"][0])


def test_networks_that_differ_are_not_shared(tmp_path: Path) -> None:
    def key(use: str, **options: Any) -> str | None:
        config = StageConfig(use=use, options={"variant": "san_tiny", "device": "cpu", **options})
        return config.kind().network_key(config.settings())

    copy = tmp_path / "copy.pth"
    copy.write_bytes(tags.Stage.Config().files()[0].read_bytes())
    assert key("tags") == key("san") == key("tags", threshold=0.5, batch=2)
    for other in ({"precision": "bf16"}, {"exact": True}, {"weights": str(copy)}):
        assert key("tags") != key("san", **other), other
    assert StageConfig(use="decode").kind().network_key(None) is None


def test_a_tagger_of_ones_own_is_a_module_and_its_files_are_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"tagger": "tests.actors.bright_tagger", "threshold": 0.3}
    black = np.zeros((8, 8, 3), np.uint8)
    half = np.concatenate([black, black + 255])
    config = StageConfig(use="tags", options=own)
    assert config.kind().network_key(config.settings()) is None
    assert config.kind().notes(config.settings(), "x") == (
        "words from the tagger tests.actors.bright_tagger; threshold 0.3",
    )
    (stage,) = build_all([config]).values()
    first, second = stage(rows([black, half]), {})["words"]
    assert first == {"classes": [["dark"]], "source": "tags tests.actors.bright_tagger", "scores": [1.0]}
    assert (second["classes"], second["scores"]) == ([["light", "bright"], ["dark"]], [0.5, 0.5])
    assert [file.name for file in tags.Stage.files(config.settings())] == ["bright_tagger.py"]
    with_file = StageConfig(use="tags", options={**own, "weights": "/a.pth"})
    assert "weights" not in with_file.identity()["options"], "its files are"
    monkeypatch.delattr("tests.actors.bright_tagger.files")
    assert with_file.identity()["options"]["weights"] == "/a.pth"
    with pytest.raises(OvssError, match=r"no module named 'tests\.actors\.none'"):
        tags.Stage.files(tags.Stage.Config(tagger="tests.actors.none"))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(SEGMENTERS))
def test_every_segmenter_takes_the_words_of_an_image_unchanged(method: str, images: list[np.ndarray]) -> None:
    small = [np.ascontiguousarray(image[:96, :128]) for image in images]
    configs = [StageConfig(**stage) for stage in SEGMENTERS[method]]
    configs += [StageConfig(use="paint")] if method == "sam" else []
    stages = {config.use: config.build() for config in configs}
    given = execution.run({"given": Given(Given.Config()), **stages}, rows(small), {})
    assert list(given["error"]) == ["", ""]
    vocabulary = Vocabulary.of(FEW)
    known = {vocabulary.digest: vocabulary}
    alone = execution.run(stages, rows(small[:1], vocabulary=[vocabulary.digest]), known)
    assert np.array_equal(given["prediction"][0], alone["prediction"][0])
    assert (given["prediction"][0] != NONE).any()
    assert (given["prediction"][1] == NONE).all()
    assert given["prediction"][1].shape == (96, 128)
