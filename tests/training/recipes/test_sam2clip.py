"""SAM2CLIP's training: the neck learns a SAM's embedding, from features that are stored or computed; CLIP is frozen."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from torch.nn import functional as F

from ovss_ray.actors import sam_features
from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.errors import OvssError
from ovss_ray.io.arrays import shards
from ovss_ray.io.arrays.shards import Shards
from ovss_ray.models import checkpoint
from ovss_ray.models.ovsam import inputs
from ovss_ray.pipeline import execution
from ovss_ray.runs.complete import complete
from ovss_ray.runs.sources import plan_runs
from ovss_ray.training import config, loop
from ovss_ray.training.recipes.sam2clip import task as sam2clip
from ovss_ray.training.recipes.sam2clip.config import Config
from ovss_ray.training.recipes.sam2clip.photographs import Photographs
from tests import small_ovsam, small_ovsam_tiny
from tests.paths import ROOT
from tests.training import one_batch

CONFIG = Config(
    task="sam2clip", variant="ovsam_tiny", steps=3, batch=2, rate=1e-3, warmup=1, precision="fp32", device="cpu",
    measured=0,
)  # fmt: skip


TINY = ["sam_features.variant=sam_tiny"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """The recipe is tested, not the size of the network."""
    with pytest.MonkeyPatch.context() as patch:
        teacher = small_ovsam_tiny.put(patch, tmp_path_factory.mktemp("teacher"))
        patch.setattr(sam2clip, "FITTED", 3)
        yield CONFIG.model_copy(update={"teacher": str(teacher)})


@pytest.mark.slow
def test_a_neck_that_begins_as_the_encoder_is_near_its_sam_before_any_step(settings: Config) -> None:
    near, far = (
        sam2clip.Task(settings.model_copy(update={"begin": begin, "measured": 2})) for begin in ("encoder", "positions")
    )
    encoder = near.teacher.image_encoder
    for task in (near, far):
        assert torch.equal(task.model.neck.pos_embed, encoder.pos_embed)
    assert torch.equal(near.model.neck.blocks[1].attn.qkv.weight, encoder.blocks[1].attn.qkv.weight)
    assert near.measure()["unexplained"] < 0.5 * far.measure()["unexplained"]


@pytest.mark.slow
def test_the_error_is_that_of_the_embeddings_and_steps_on_one_batch_bring_it_down(
    settings: Config, tmp_path: Path
) -> None:
    long = settings.model_copy(update={"steps": 15, "batch": 1, "rate": 3e-3, "cooldown": 0.0})
    task = sam2clip.Task(long)
    batch = task.batch(0)
    with torch.no_grad():
        embeddings = task.model.neck(task.model.backbone(batch["images"]))
        expected = F.mse_loss(embeddings, task.teacher.encode(batch["images"]))
        assert torch.equal(task.losses(task.forward(batch, 0), batch)["mse"], expected)
    totals = one_batch.totals(task, long, tmp_path)
    assert np.mean(totals[-3:]) < 0.6 * np.mean(totals[:2]), totals


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_weights_of_an_unbroken_one_and_clip_stays(
    settings: Config, tmp_path: Path
) -> None:
    whole, resumed = sam2clip.Task(settings), sam2clip.Task(settings)
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    loop.train(whole, settings, tmp_path / "whole")
    loop.train(sam2clip.Task(settings), settings, tmp_path / "parts", until=1)
    loop.train(resumed, settings, tmp_path / "parts")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        frozen = name.startswith("backbone.") or name == "neck.pos_embed"
        assert torch.equal(value, before[name]) == frozen, name
    exported = checkpoint.read(loop.export(whole, tmp_path / "whole"))
    assert exported.keys() == {"neck_student." + name for name in whole.model.neck.state_dict()}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small photographs in the layout of SA-1B, without masks."""
    folder = tmp_path_factory.mktemp("data") / "sam"
    (folder / "sa_000020").mkdir(parents=True)
    (folder / "train.txt").write_text("sa_000020\n")
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "sa_000020" / f"sa_{number}.jpg")
        (folder / "sa_000020" / f"sa_{number}.json").write_text("{}")
    return folder.parent


def dumped(settings: Config, root: Path, folder: Path, numbers: list[int]) -> sam_features.Stage:
    """Run the stage on some photographs, as one batch."""
    options = {"variant": "sam_tiny", "weights": settings.teacher, "folder": str(folder), "device": "cpu", "batch": 2}
    stage = sam_features.Stage(sam_features.Stage.Config(**options))
    images = [np.asarray(Image.open(root / "sam" / "sa_000020" / f"sa_{number}.jpg")) for number in numbers]
    rows = execution.start(len(images), benchmark=["sa1b"] * len(images), image=images)
    rows["image_id"] = np.array([f"sa_{number}" for number in numbers], object)
    assert stage(rows, {}) == {}
    return stage


@pytest.mark.slow
def test_stored_features_train_as_computed_ones_do(settings: Config, photographs: Path, tmp_path: Path) -> None:
    for numbers in ([0, 1, 2], [3, 4], [3, 4]):  # as after a kill between a shard and its records
        stage = dumped(settings, photographs, tmp_path, numbers)
    stored = Shards(str(tmp_path / "sa1b"))
    assert sorted(stored.places) == [f"sa_{number}" for number in range(5)]
    image = np.asarray(Image.open(photographs / "sam" / "sa_000020" / "sa_3.jpg"))
    with torch.inference_mode():
        expected = stage.network.encode(inputs.network_input(image, "evaluation", 128)[None])[0]
    assert np.allclose(stored.get("sa_3"), expected.numpy(), atol=2e-3)
    real = settings.model_copy(update={"data": "sa1b", "data_root": str(photographs)})
    read = sam2clip.Task(real.model_copy(update={"targets": str(tmp_path / "sa1b")}))
    computed = sam2clip.Task(real)
    for step in (0, 3):
        batch, same = read.batch(step), computed.batch(step)
        assert torch.equal(batch["images"], same["images"])
        with torch.no_grad():
            losses = [task.losses(task.forward(b, step), b)["mse"] for task, b in ((read, batch), (computed, same))]
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-3)


def test_photographs_without_features_are_left_out_and_none_is_an_error(
    settings: Config, photographs: Path, tmp_path: Path
) -> None:
    dumped(settings, photographs, tmp_path, [1, 3])
    real = settings.model_copy(
        update={"data": "sa1b", "data_root": str(photographs), "targets": str(tmp_path / "sa1b"), "batch": 4}
    )
    task = sam2clip.Task(real)
    assert {item.image_id for item in task.source.items} == {"sa_1", "sa_3"}
    assert task.batch(0)["targets"].shape == (4, 32, 16, 16)
    shards.write(str(tmp_path / "other"), {"sa_9": np.zeros((32, 16, 16), np.float16)}, "any")
    with pytest.raises(OvssError, match=r"contains no features of images of sa1b\. Write the teacher's features into"):
        sam2clip.Task(real.model_copy(update={"targets": str(tmp_path / "other")}))
    shards.write(str(tmp_path / "large"), {"sa_1": np.zeros((32, 64, 64), np.float16)}, "any")
    with pytest.raises(
        OvssError, match=r"shape \(32, 64, 64\), but the neck of ovsam_tiny needs \(32, 16, 16\)\. Write"
    ):
        sam2clip.Task(real.model_copy(update={"targets": str(tmp_path / "large")}))


def test_features_of_another_network_or_of_several_are_refused(
    settings: Config, photographs: Path, tmp_path: Path
) -> None:
    targets = tmp_path / "sa1b"
    real = settings.model_copy(update={"data": "sa1b", "data_root": str(photographs), "targets": str(targets)})
    features = {"sa_1": np.zeros((32, 16, 16), np.float16)}
    shards.write(str(targets), features, "sam_tiny, sha256 0123")
    needed = dumped(settings, photographs, tmp_path / "right", [2]).source
    with pytest.raises(
        OvssError, match=rf"has features computed by sam_tiny, sha256 0123 \(.*\), but the teacher is {needed}\. If"
    ):
        Photographs(real)
    dumped(settings, photographs, tmp_path, [2])
    with pytest.raises(
        OvssError, match=rf"by (sam_tiny, sha256 0123|{needed}) \(.*\); .* several checkpoints, compute the features"
    ):
        Photographs(real)
    assert [item.image_id for item in Photographs(real.model_copy(update={"targets": f"{tmp_path}/right/sa1b"})).items]
    safetensors.numpy.save_file(features, tmp_path / "right/sa1b/old.safetensors")
    with pytest.raises(OvssError, match=r"an unknown network \(old\.safetensors\)"):
        Photographs(real.model_copy(update={"targets": str(tmp_path / "right/sa1b")}))


def test_the_statistics_of_clips_norms_are_frozen_in_a_training() -> None:
    student = sam2clip.Student(small_ovsam.SMALL)
    for _ in range(2):  # as it is built, and after a measurement
        assert not any(part.training for part in student.backbone.modules())
        assert student.neck.training
        student.eval().train()


def test_a_run_that_goes_on_with_another_folder_is_another_run(photographs: Path) -> None:
    more = {"benchmarks": ["sa1b"], "data_root": str(photographs), "split": "train"}
    one, same, two = (
        next(iter(plan_runs("sam_features", None, [f"sam_features.folder={folder}", *TINY], more).values()))
        for folder in ("a", "a", "b")
    )
    assert one.identity() == same.identity() != two.identity()
    (note,) = one.config.stages()[0].notes("sa1b")
    assert note.endswith("embeddings of sam_tiny are in " + str(Path("a/sa1b").absolute()))


def test_a_run_that_writes_features_reads_no_truth() -> None:
    pools = complete(configs.load(shipped_configs()["sam_features"]))
    assert [stage.use for pool in pools for stage in pool.stages] == ["decode", "sam_features", "measure"]


def test_the_configs_are_those_of_this_training_with_the_official_schedule() -> None:
    tiny = config.load(ROOT / "configs/train_ovsam_tiny_neck.yaml")
    assert (tiny.variant, tiny.begin) == ("ovsam_tiny", "encoder")
    official = config.load(ROOT / "configs/train_ovsam_sam2clip.yaml", ["steps=1000"])
    rates = [loop.schedule(official, step) for step in (0, 499, 500, 750, 999)]
    assert rates == pytest.approx([0.001, 1.0, 1.0, 0.01 + 0.99 / 2, 0.01], abs=2e-5)
    neck = small_ovsam.network(small_ovsam.state_dict(small_ovsam.SMALL)).neck.requires_grad_()
    names = {id(value): name for name, value in neck.named_parameters()}
    decayed, plain = ({names[id(value)] for value in of["params"]} for of in loop.groups(neck, official))
    assert {name.split(".")[-2] for name in plain} == {"norm1", "norm2", "1", "3"}, "of blocks, and after convolutions"
    assert {"level_encoding.weight", "blocks.0.mlp.lin1.bias"} <= decayed
    with pytest.raises(OvssError, match="`targets` has no effect with data=scenes"):
        config.load(ROOT / "configs/train_ovsam_tiny_neck.yaml", ["targets=/a"])
