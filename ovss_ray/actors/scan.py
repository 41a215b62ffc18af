"""SCAN: masks from a masked decoder, classes from calibrated proposals and from CLIP on crops of the masks.

Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, arXiv 2312.04089.

The class scores of proposals and crops are fused by a weighted geometric mean. The contextual shift replaces random
background tokens of a crop by a token of the whole photograph. The crops take most of the time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ovss_ray.benchmarks import class_lists
from ovss_ray.models.network_config import NetworkConfig, WithClassifiers
from ovss_ray.models.scan.variants import Options
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.scan.network import Features, Inputs
    from ovss_ray.models.scan.regions import Cut

Fraction = Annotated[float, Field(ge=0, le=1)]
Row = tuple[np.ndarray, Options, Vocabulary]
"""Image (H, W, 3) uint8 RGB, its options, and its vocabulary"""


class Values(Settings):
    """Options that may differ between benchmarks.

    If an option is None, the benchmark's preset sets the value. If there is no preset, or if the option is None in the
    preset, too, the option has its default.
    """

    mask_threshold: Fraction | None = None
    """probability above which a pixel belongs to the crop of a mask; default 0.4"""
    ensemble_weight: Fraction | Literal["none"] | None = None
    """weight of the crops in the geometric mean of class scores; default 0.7

    If the weight is above 0, the proposals have the remaining weight, such as 0.3 for the default. The value 0 has a
    special meaning, as in the official code: the class scores are those of the crops alone. With "none", the class
    scores are those of the proposals alone.
    """
    replace_ratio: Fraction | None = None
    """fraction of background tokens that the contextual shift replaces; default 0.15"""
    fusion: Literal["product", "log"] | None = None
    """rule for the class scores of a mask: product leaves them as they are, log normalises them; default product

    The class scores of a mask are geometric means (see `ensemble_weight`). With log, the class scores of a mask are
    scaled to the sum 1 − p. p is the probability of "no object" for the mask's proposal. The official code uses log for
    ADE-847 and PC-459. If `ensemble_weight` is 0 or none, `fusion` has no effect.
    """


class Stage(WithClassifiers, stage.Stage):
    """Segment an image (H, W, 3) uint8 RGB into the classes of its vocabulary: prediction (H, W) uint16."""

    reads = ("image", "vocabulary", "benchmark")
    writes = ("prediction",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch", "crops")

    class Config(NetworkConfig, Values):
        """The SCAN network, and the options of its computation."""

        family: ClassVar[str] = "ovss_ray.models.scan"
        variant: str = "scan_vitL"
        """scan_tiny, scan_vitB or scan_vitL"""
        presets: dict[str, Values] = Field(default_factory=dict)
        """benchmark → option values for its images. An option that is set outside `presets` overrides the preset."""
        seed: int = 0
        """seed of the contextual shift. The draws for an image depend on this seed and on the image's pixels"""
        batch: int = Field(default=4, ge=1)
        """maximum number of images that share forward passes. The features of all these images are in memory"""
        crops: int = Field(default=32, ge=1)
        """maximum number of crops in one forward pass"""

        def preset(self, benchmark: str) -> str | None:
            """Return the name of the preset for a benchmark, or None if there is no preset.

            The benchmark ade20k:847@ovseg is ade20k:847 with other class names. If ade20k:847@ovseg has no preset of
            its own, the result is the preset of ade20k:847.
            """
            return next((name for name in (benchmark, class_lists.base(benchmark)) if name in self.presets), None)

        def values(self, benchmark: str) -> Options:
            """Return the options for a benchmark's images.

            Images that the online service receives belong to no benchmark. For these images, `benchmark` is "".
            """
            preset = self.preset(benchmark)
            values = {**(_set(self.presets[preset]) if preset else {}), **_set(self)}
            if values.get("ensemble_weight") == "none":
                values["ensemble_weight"] = None
            return Options.of({**values, "seed": self.seed})

    @classmethod
    def prepare(cls, config: Config, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Return the classifier of each vocabulary. Only the text tower is loaded.

        A classifier (K + 1, D) float32 has a row of D features for each of K classes. The last row is for "no object".
        """
        from ovss_ray.models.scan import network

        with config.computing():
            words = network.load_text(config.variant, cls.files(config), config.resolved_device())
            return [words.classifier(vocabulary).cpu().numpy() for vocabulary in vocabularies]

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return notes for the report: option values used for the benchmark, their origin, and the seed of draws."""
        values, preset, overrides = config.values(benchmark), config.preset(benchmark), _set(config)
        weight = "none" if values.ensemble_weight is None else values.ensemble_weight
        numbers = (
            f"mask_threshold {values.mask_threshold}, ensemble_weight {weight}, replace_ratio {values.replace_ratio}, "
            f"fusion {values.fusion}"
        )
        origin = f"preset of {preset}" if preset else "defaults, since there is no preset of this benchmark"
        for_all = f"; set for all benchmarks: {', '.join(overrides)}" if overrides else ""
        if weight == "none" or not values.replace_ratio:
            return (f"{numbers} ({origin}{for_all})",)
        seed = f"random method: the contextual shift draws tokens with seed {config.seed} (option scan.seed)"
        return (f"{numbers} ({origin}{for_all})", seed)

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.scan import network

        self.model = network.load(config.variant, self.files(config), config.resolved_device(), config.precision)
        self._seconds = 0.0

    def parts(self) -> Mapping[str, float]:
        """Return {"crops": n}, where n is the wall seconds that crops took since the last call of `parts`."""
        spent, self._seconds = self._seconds, 0.0
        return {"crops": spent}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment the images of a batch, at most `batch` of them at a time; with `exact`, image by image."""
        import torch

        options = map(self.config.values, batch["benchmark"])
        words = (vocabularies[digest] for digest in batch["vocabulary"])
        rows = list(zip(batch["image"], options, words, strict=True))
        most = 1 if self.config.exact else self.config.batch
        with self.config.computing(), torch.inference_mode():
            parts = (rows[begin : begin + most] for begin in range(0, len(rows), most))
            return {"prediction": column(chain.from_iterable(map(self._segment, parts)))}

    def _segment(self, rows: Sequence[Row]) -> Iterator[np.ndarray]:
        """Yield the label maps (H, W) uint16 of images, whose crops share forward passes."""
        import torch

        inputs = [self.model.preprocess(image) for image, *_ in rows]
        features = self._features(inputs)
        begun = time.perf_counter()
        cuts = list(map(self._cut, rows, inputs, features))
        valid = [cut.regions.valid if cut else np.zeros(self.model.variant.queries, bool) for cut in cuts]
        embeddings = self.model.embed((cut for cut in cuts if cut), self.config.crops)
        self._seconds += time.perf_counter() - begun
        crops = embeddings.split([int(queries.sum()) for queries in valid])
        for i, (_, options, vocabulary) in enumerate(rows):
            queries = torch.from_numpy(valid[i]).to(self.model.device)
            classifier = self.classifier(vocabulary)
            scores = self.model.scores(features[i].proposals[0], crops[i], queries, classifier, options)
            yield self.model.labels(features[i].mask_logits[0], scores, inputs[i].geometry, vocabulary)

    def _features(self, inputs: "Sequence[Inputs]") -> "list[Features]":
        """Return the features of each image, with a batch axis of 1. Images of one padded size share forward passes."""
        from ovss_ray.models import photograph
        from ovss_ray.models.scan.network import Features

        features: dict[int, Features] = {}
        for indices in photograph.alike([image.geometry.padded for image in inputs], len(inputs)):
            together = vars(self.model([inputs[i] for i in indices]))
            for place, i in enumerate(indices):
                features[i] = Features(**{name: value[place : place + 1] for name, value in together.items()})
        return [features[i] for i in range(len(inputs))]

    def _cut(self, row: Row, inputs: "Inputs", features: "Features") -> "Cut | None":
        """Return the crops of an image's masks.

        If the option `ensemble_weight` is "none" for the image's benchmark, crops are not needed. The result is then
        None.
        """
        image, options, _ = row
        if options.ensemble_weight is None:
            return None
        return self.model.cut(image, inputs, features.mask_logits[0], features.class_tokens[0], options)


def _set(values: Values) -> dict[str, object]:
    """Return the options of `values` that are not None, by name."""
    return values.model_dump(include=set(Values.model_fields), exclude_none=True)
