"""A family of networks is a folder: added to ovss_ray/models or on the Python path, all of it is found by name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ovss_ray import models
from ovss_ray.cli import inventory
from ovss_ray.cli.weights import weights_fake
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import fake, zoo
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig

FILES = {
    "__init__.py": "",
    "variants.py": """
from dataclasses import dataclass
from ovss_ray.models.zoo import Weights

@dataclass(frozen=True)
class Variant:
    width: int
    base: str = ""

VARIANTS = {"mean_base": Variant(3), "mean_tuned": Variant(3, "mean_base")}
PAGE = "https://example.org/mean"
WEIGHTS = {
    "parts": Weights("base.pth", "", None, None, "MIT", ""),
    "mean_base": Weights("base.pth", "", None, None, "MIT", ""),
    "mean_tuned": Weights("tuned.pth", f"{PAGE}/tuned.pth", None, None, "MIT", PAGE),
}

def checkpoints(name):
    return tuple(filter(None, (VARIANTS[name].base, name)))
""",
    "network.py": """
import torch
from torch import nn
from ovss_ray.models import checkpoint
from FAMILY.variants import VARIANTS

class Mean(nn.Module):
    def __init__(self, variant):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(variant.width))

    def forward(self, image):
        return torch.from_numpy(image).float() @ self.weight

def load(name, files, device="cpu", precision="fp32"):
    state = {key: value for file in files for key, value in checkpoint.read(file).items()}
    with torch.device("meta"):
        model = Mean(VARIANTS[name])
    return checkpoint.fill(model, state, files[-1], name, {}).to(device)
""",
    "fake.py": """
from ovss_ray.models.fake import tensor

def state_dict(variant, seed):
    return {"weight": tensor("weight", (variant.width,), seed)}
""",
}
STAGE = """
from typing import ClassVar
from ovss_ray.models.network_config import NetworkConfig
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import column

class Stage(stage.Stage):
    reads, writes = ("image",), ("prediction",)

    class Config(NetworkConfig):
        family: ClassVar[str] = "FAMILY"
        variant: str = "mean_base"

    @classmethod
    def files(cls, config):
        return config.files()

    def __init__(self, config, prepared=None):
        super().__init__(config, prepared)
        from FAMILY.network import load
        self.model = load(config.variant, config.files(), config.resolved_device())

    def __call__(self, batch, vocabularies):
        with self.config.computing():
            made = column((self.model(image) > 0).numpy().astype("uint16") for image in batch["image"])
        return {"prediction": made}
"""
BASE, TUNED = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0])


def write_family(folder: Path, package: str) -> None:
    (folder / "weights").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("FAMILY", package))
    torch.save({"weight": BASE}, folder / "weights" / "base.pth")


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "downloaded"))
    yield
    for name in [name for name in sys.modules if name.startswith(("my_package", "ovss_ray.models.mean"))]:
        del sys.modules[name]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family and its stage in a package of the user's own."""
    write_family(tmp_path / "code" / "my_package" / "mean", "my_package.mean")
    (tmp_path / "code" / "my_package" / "__init__.py").write_text("")
    (tmp_path / "code" / "my_package" / "name_means.py").write_text(STAGE.replace("FAMILY", "my_package.mean"))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    return "my_package.mean"


@pytest.fixture
def added(tmp_path: Path) -> Iterator[None]:
    """The same family as one more folder of ovss_ray/models."""
    write_family(tmp_path / "more" / "mean", "ovss_ray.models.mean")
    models.__path__.append(str(tmp_path / "more"))
    yield
    models.__path__.remove(str(tmp_path / "more"))
    del models.mean


def test_a_folder_in_models_is_all_that_a_family_needs(
    added: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ovss_ray.models.mean" in zoo.families()
    assert torch.equal(models.load("mean_base").weight, BASE)
    assert zoo.lookup("mean_base") == tmp_path / "more" / "mean" / "weights" / "base.pth"
    assert zoo.lookup("mean_tuned") is None
    listed = list(inventory.weights().columns[0].cells)
    assert {"mean_base", "mean_tuned", "san_tiny"} <= set(listed)
    weights_fake("mean_tuned", tmp_path / "fake.pth", seed=3)
    assert f"--set mean.weights={tmp_path / 'fake.pth'}" in capsys.readouterr().out
    assert zoo.is_fake(tmp_path / "fake.pth")
    assert torch.equal(models.load("mean_base", tmp_path / "fake.pth").weight, fake.tensor("weight", (3,), 3))
    with pytest.raises(UnknownName, match="Did you mean 'mean_base'"):
        models.load("mean_bases")


def test_a_family_of_the_users_own_is_named_by_its_package(own: str, tmp_path: Path) -> None:
    torch.save({"weight": TUNED}, tmp_path / "tuned.pth")
    assert torch.equal(models.load(f"{own}:mean_base").weight, BASE)
    assert torch.equal(models.load(f"{own}:mean_tuned", [None, tmp_path / "tuned.pth"]).weight, TUNED)
    fake.write(f"{own}:mean_base", tmp_path / "fake.pth")
    assert torch.equal(models.load(f"{own}:mean_base", tmp_path / "fake.pth").weight, fake.tensor("weight", (3,)))
    assert own not in zoo.families()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_package.mean:mean_bas", "unknown model .* Did you mean 'my_package.mean:mean_base'"),
        ("my_package.mean:parts", "unknown model 'my_package.mean:parts'"),
        ("my_package.means:mean_base", "no module named 'my_package.means.variants' on the Python path"),
        ("my_package:mean_base", "no module named 'my_package.variants' on the Python path"),
    ],
)
def test_a_wrong_name_is_an_error_that_says_so(own: str, name: str, message: str) -> None:
    with pytest.raises(OvssError, match=message):
        models.load(name)


def test_weights_that_are_not_here_come_with_what_to_type(own: str) -> None:
    with pytest.raises(OvssError, match=r"mean_tuned: file not found: .*Download tuned\.pth from https://example.org"):
        models.load(f"{own}:mean_tuned", [None, "nowhere.pth"])
    with pytest.raises(OvssError, match=r"has 1 checkpoints .*found 2 paths"):
        models.load(f"{own}:mean_base", ["a.pth", "b.pth"])


def test_its_stage_is_the_second_file(own: str) -> None:
    configured = StageConfig(use="my_package.name_means")
    assert [file.name for file in configured.kind().files(configured.settings())] == ["base.pth"]
    image = np.array([[[9, 0, 0], [0, 9, 0]]], np.uint8)
    made = configured.build()(execution.start(1, image=[image]), {})
    assert made["prediction"][0].tolist() == [[1, 0]]
    with pytest.raises(ValidationError, match=r"unknown variant 'mean'\. Did you mean 'mean_base'"):
        StageConfig(use="my_package.name_means", options={"variant": "mean"}).settings()
