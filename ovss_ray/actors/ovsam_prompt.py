"""Segment and name the object of a user's prompt with Open-Vocabulary SAM. A prompt has points, a box, or both.

Yuan et al., "Open-Vocabulary SAM: Segment and Recognize Twenty-thousand Classes Interactively", ECCV 2024, arXiv
2401.02955. Encoded images are cached. To evaluate the network on a benchmark, use the stage `ovsam`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray.errors import OvssError
from ovss_ray.models.ovsam.config import OvsamConfig, WithSynonyms
from ovss_ray.models.sam_layers.encoded import WithImages
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.ovsam.network import Ovsam

TOP = 10
"""Maximum number of classes that the column `top_classes` lists for the mask: the classes with the highest scores

The field `top` of a request to the service is at most this number.
"""
OFFSET = 1.0
"""Offset in logits. A mask's stability is the IoU of the two masks with the thresholds +OFFSET and −OFFSET"""
QUESTION = ("points", "labels", "box", "base", "multimask", "image")
"""Keys that a prompt may have.

`base` replaces the option `base`. `image` is the key of the image in the cache; default: a hash of the pixels.
`multimask` is a key of prompts for SAM. Open-Vocabulary SAM ignores `multimask`, and always predicts one mask.
"""


class Stage(WithImages, WithSynonyms, stage.Stage):
    """Segment and name the object at a prompt in an image (H, W, 3) uint8 RGB.

    The object is one region with scores (1, K) float32 for K classes. The network predicts no IoU. The column
    `predicted_iou` has the stability of the object's mask instead.
    """

    reads = ("image", "prompts", "vocabulary")
    writes = ("boxes", "bits", "predicted_iou", "scores", "top_classes", "top_scores")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "clip", "neck", "sam", "fpn", "device", "memory")

    class Config(OvsamConfig):
        """The network, the names seen in training, and the size of the image cache."""

        base: tuple[str, ...] = ()
        """names of classes seen in training. The scores of these classes depend mostly on the trained head; the scores
        of other classes depend mostly on CLIP. Not for `path: demo`

        If a prompt has the key `base`, the names under this key replace the option.
        """
        memory: int = Field(default=1 << 28, ge=1)
        """maximum bytes of the cache of encoded images; the newest image is always cached. An encoding takes 110 MB"""

    def __init__(self, config: Config, prepared: stage.Prepared | None = None, network: "Ovsam | None" = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.ovsam import network as networks

        self.model = network or networks.load(
            config.variant, self.files(config), config.resolved_device(), config.precision
        )
        self.cache(config.memory)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment and name the object at the prompt of each image."""
        rows = zip(batch["image"], batch["prompts"], batch["vocabulary"], strict=True)
        with self.config.computing():
            answers = [self._answer(image, prompt, vocabularies[digest]) for image, prompt, digest in rows]
        return {name: column(answer[i] for answer in answers) for i, name in enumerate(self.writes)}

    def _answer(self, image: np.ndarray, question: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[np.ndarray, ...]:
        """Return what the stage writes for an image and the prompt `question`: one array per column in `writes`.

        Raises OvssError if the prompt is invalid.
        """
        from ovss_ray.models.ovsam import inputs, naming, words

        if unknown := set(question) - set(QUESTION):
            raise OvssError(f"unknown keys of a prompt: {sorted(unknown)}; allowed: {', '.join(QUESTION)}")
        seen = self.encoded(image, question.get("image"), lambda image: self.model.embed([image], self.config.path)[0])
        points, labels, box = ([question[key]] if key in question else None for key in ("points", "labels", "box"))
        (logits,) = self.model.masks([seen], [inputs.prompts(points, labels, box, seen.placed)])
        groups = words.trained(question.get("base", self.config.base), vocabulary)
        corners = None if box is None else inputs.scaled_boxes(box, seen.placed)
        names = naming.named(self.model, seen, logits, self._classes(vocabulary), *groups, corners, TOP)
        mask = self.model.measured(seen, logits, OFFSET)
        return *mask, names.scores, names.classes, names.probabilities
