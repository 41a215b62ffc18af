"""Training of SAM2CLIP, the neck of Open-Vocabulary SAM (Yuan et al., ECCV 2024, arXiv 2401.02955, §3.2).

The neck learns to predict the image embedding of a SAM from the maps of a frozen CLIP. The official recipe is
configs/train_ovsam_sam2clip.yaml. The recipe of the small network is configs/train_ovsam_tiny_neck.yaml.

Dimensions: B images, n side of the input in pixels, g side of the embedding, D channels of the embedding.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.ovsam import inputs
from ovss_ray.models.ovsam.backbone import Neck, backbone
from ovss_ray.models.ovsam.parts import NECK_FILE, towers
from ovss_ray.models.ovsam.variants import VARIANTS, Variant, teacher
from ovss_ray.models.sam import network as sam
from ovss_ray.models.sam.encoder import ImageEncoder
from ovss_ray.models.sam.network import Sam
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.initial import initialise, load_start
from ovss_ray.training.recipes.sam2clip.config import Config
from ovss_ray.training.recipes.sam2clip.photographs import Photographs

FITTED = 24
"""Number of synthetic scenes for the least-squares fit of the neck's first convolutions (see `_fit`)"""


class Student(nn.Module):
    """CLIP's frozen image tower, and the neck."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.backbone = backbone(variant)
        self.neck = Neck(variant)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D, g, g) of normalised images (B, 3, n, n)."""
        with torch.no_grad():
            maps = self.backbone(images)
        return self.neck(maps)


class Task:
    """Training of SAM2CLIP, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = Student(self.variant)
        name = teacher(config.variant)
        self.teacher = sam.load(name, [zoo.find(name, config.teacher)])
        fault = f"clip: {config.clip or 'the default CLIP'} does not fit {config.variant}"
        checkpoint.load_into(self.model.backbone, towers(config.variant, config.clip)[1], fault)
        self.model.backbone.requires_grad_(False)
        begin(self.model, self.teacher, config)
        load_start(self.model, config)
        self.source = None if config.data == "scenes" else Photographs(config)

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step, a dict with the normalised `images` (B, 3, n, n).

        If Config.targets is set, the dict also has `targets` (B, D, g, g), the stored embeddings of the SAM.
        """
        if self.source:
            images, targets = self.source.batch(step)
            stored = {} if targets is None else {"targets": torch.from_numpy(targets)}
        else:
            config = self.config
            batch = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
            images, stored = [scene.image for scene in batch], {}
        return {"images": self._inputs(images), **stored}

    def _inputs(self, images: list[np.ndarray]) -> Tensor:
        return torch.stack([inputs.network_input(image, "evaluation", self.variant.pixels) for image in images])

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the neck and of the SAM, (B, D, g, g) each."""
        return self.model(batch["images"]), self._expected(batch)

    def _expected(self, batch: dict[str, Any]) -> Tensor:
        """Return the embeddings (B, D, g, g) float32 that the SAM gives for the images of a batch.

        If `batch` contains stored `targets`, the targets are returned. Otherwise, the SAM computes the embeddings.
        """
        if "targets" in batch:
            return batch["targets"].float()
        with torch.no_grad():
            return self.teacher.to(batch["images"].device).encode(batch["images"])

    def losses(self, outputs: tuple[Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the mean squared error between the embeddings of the neck and of the SAM."""
        embeddings, expected = outputs
        return {"mse": F.mse_loss(embeddings.float(), expected)}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the neck's mean squared error on validation scenes, under the key `unexplained`.

        The error is in percent of the variance of the SAM's embeddings. If the training images are photographs of a
        benchmark, no error is measured, and the result is {}.
        """
        if self.source:
            return {}
        errors, variances = [], []
        for number in range(self.config.measured):
            image = scenes.of_address(f"seen/validation/{number}")[0].image
            device = next(self.model.parameters()).device
            batch = {"images": self._inputs([image]).to(device)}
            expected = self._expected(batch)
            errors.append(F.mse_loss(self.model(batch["images"]).float(), expected).item())
            variances.append(expected.var((0, 2, 3), correction=0).mean().item())
        return {"unexplained": 100 * float(np.mean(errors) / np.mean(variances))}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the neck under the names of the official checkpoint."""
        return {NECK_FILE + name: value for name, value in self.model.neck.state_dict().items()}


@torch.no_grad()
def begin(model: Student, teacher: Sam, config: Config) -> None:
    """Initialise the neck, and copy parts of the SAM's image encoder into the neck.

    If Config.begin is positions, only the position embedding is copied. If Config.begin is encoder, the blocks and the
    final projection are copied too. In this case, `_fit` then changes the neck's first convolutions. Raises OvssError
    if the SAM does not fit the neck.
    """
    neck, encoder = model.neck, teacher.image_encoder
    initialise(neck, len(neck.blocks), config.seed)
    for name, value in neck.named_parameters():
        if "rel_pos" in name:
            value.zero_()
    if not isinstance(encoder, ImageEncoder) or encoder.pos_embed.shape != neck.pos_embed.shape:
        raise OvssError(
            f"teacher: the SAM does not fit {config.variant}. The image encoder of the SAM must be a ViT with a "
            f"position embedding of shape {tuple(neck.pos_embed.shape)}. Set `teacher` to a checkpoint of a SAM with "
            "this shape"
        )
    neck.pos_embed.copy_(encoder.pos_embed)
    if config.begin == "positions":
        return
    state = encoder.state_dict()
    copied = {name: state.get(name) for name in neck.state_dict() if name.startswith(("blocks.", "neck."))}
    if any(value is None or value.shape != neck.state_dict()[name].shape for name, value in copied.items()):
        raise OvssError(
            f"begin=encoder: the neck of {config.variant} and SAM's encoder differ in size. Remove the setting `begin`"
        )
    neck.load_state_dict(copied, strict=False)
    _fit(model, encoder, config)


def _fit(model: Student, encoder: ImageEncoder, config: Config) -> None:
    """Fit the neck's first convolutions, so that the sum of their outputs approximates the SAM's patch embedding.

    The neck has one such convolution for each of CLIP's four maps. The convolutions of the two finest maps are fitted
    by least squares on drawn scenes. The weights of the other two convolutions are set to 0.
    """
    batch = drawn_scenes.batch(config.seed, 0, FITTED, config.things, config.unnamed)
    pixels = VARIANTS[config.variant].pixels
    images = torch.stack([inputs.network_input(scene.image, "evaluation", pixels) for scene in batch])
    layers: list[Any] = [layer.get_submodule("projection") for layer in model.neck.patch_embeds.children()]
    finest = zip(layers[:2], model.backbone(images)[:2], strict=True)
    columns = [F.unfold(level, layer.kernel_size, stride=layer.stride) for layer, level in finest]
    seen = torch.cat([*columns, torch.ones_like(columns[0][:, :1])], 1).transpose(1, 2).flatten(0, 1)
    target = encoder.patch_embed.get_submodule("proj")(images).flatten(2).transpose(1, 2).flatten(0, 1)
    solved = torch.linalg.lstsq(seen.double(), target.double()).solution.float()
    first, second, bias = solved.split([columns[0].shape[1], columns[1].shape[1], 1])
    for layer, part in zip(layers[:2], (first, second), strict=True):
        layer.weight.copy_(part.T.reshape(layer.weight.shape))
    for layer in layers:
        layer.bias.zero_()
    for layer in layers[2:]:  # the coarser maps
        layer.weight.zero_()
    model.neck.level_encoding.weight.zero_()
    layers[0].bias.copy_(bias[0])
