"""Mask IoU and accuracy of Open-Vocabulary SAM on the things of validation scenes, with one click per thing."""

import numpy as np
import torch

from ovss_ray.actors.truth_prompts import centre
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.instances import VISIBLE
from ovss_ray.datasets.scenes.scene import Thing
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.training import scenes as drawn_scenes

SIDE = 1024
"""Long side, in pixels, to which a mask is resized to find its centre point (see `centre`)"""


@torch.inference_mode()
def measured(model: Ovsam, count: int) -> dict[str, float]:
    """Return percentages over the things in the first `count` scenes of scenes:seen and scenes:held-out.

    Each key begins with seen_ or held-out_, such as `seen_iou`. A thing is classified among 42 names. A key ends with:

    - `iou`: mean IoU of the masks
    - `head`: accuracy of the class head
    - `clip`: accuracy of CLIP
    - `name`: accuracy of the fused scores of the class head and CLIP. The fusion treats all classes as novel
    """
    results: dict[str, list[float]] = {}
    for key, number in ((key, number) for key in ("seen", "held-out") for number in range(count)):
        scene, _ = scenes.of_address(f"{key}/validation/{number}")
        names = scenes.BENCHMARKS[key].vocabulary.names
        things = [i for i in drawn_scenes.visible(scene, VISIBLE) if isinstance(scene.contents[i], Thing)]
        masks = [scene.regions == i for i in things]
        answer = model.predict(
            scene.image, np.stack([centre(mask.astype(np.uint8), SIDE) for mask in masks]), names=names
        )
        right = torch.tensor([names.index(scenes.name(scene.contents[i])) for i in things])
        named = {"name": answer["labels"].cpu()}
        for part in ("head", "clip"):
            named[part] = answer[f"{part}_logits"][:, 0, :-1].argmax(-1).cpu()
        ious = [(a & b).sum() / (a | b).sum() for a, b in zip(answer["masks"], masks, strict=True)]
        results.setdefault(f"{key}_iou", []).extend(map(float, ious))
        for part, labels in named.items():
            results.setdefault(f"{key}_{part}", []).extend((labels == right).float().tolist())
    return {name: 100 * float(np.mean(values)) for name, values in results.items()}
