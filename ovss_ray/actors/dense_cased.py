"""Segment an image without any vocabulary. CaSED finds a word for each part of the image.

Conti et al., "Vocabulary-free Image Classification and Semantic Segmentation", arXiv 2404.10864.

If the option `detector` is dense, the parts are the cells of a coarse map. If `detector` is grid, the parts are the
rectangles of regular grids. If `detector` is regions, the parts are the regions of an earlier stage. Rectangles and
regions are called patches.

CaSED retrieves captions for a part. The part gets the word with the highest score among the words in these captions.
The column `words` lists the words of the whole image, the most frequent word first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from ovss_ray.errors import OvssError
from ovss_ray.io import validation
from ovss_ray.io.arrays.caption_index import Hit
from ovss_ray.models.alpha_clip.clip_config import ClipConfig, Retrieval, Scoring, build_index
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared, StageConfig
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.masks.regions import Masks
from ovss_ray.structures.vocabulary import Vocabularies
from ovss_ray.structures.words import WORDS

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

Named = tuple[str, float]
"""Word and its score; the word is empty if there was no candidate"""


class Stage(stage.Stage):
    """Segment an image (H, W, 3) uint8 RGB into words.

    A pixel of the column `prediction` (H, W) uint16 is a word's index in the column `words`, or NONE.
    """

    reads: tuple[str, ...] = ("image",)
    writes = ("words", "prediction")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("captions", "vectors", "faiss", "weights", "device", "batch")

    class Config(ClipConfig, Retrieval, Scoring):
        """The CLIP model, the captions to search, the formula of the scores, and the parts of the image."""

        words: StageConfig = StageConfig(use="words", options={"filter": "cased"})
        """stage that finds candidate words in captions, with its options"""
        detector: Literal["dense", "grid", "regions"] = "dense"
        """parts of the image that get a word. dense: the cells of a coarse map, as in DenseCaSED. grid: the rectangles
        of `grids`, called patches. regions: the regions of an earlier stage such as `sam`, also called patches"""
        grids: tuple[int, ...] = Field(default=(2, 4, 8), min_length=1)
        """rectangles per axis of each grid: 2 is a grid of 2 × 2 rectangles. For `detector: dense`, each rectangle is a
        crop. A cell of the coarse map (see `side`) gets the mean embedding of the crops that cover the cell. For
        `detector: grid`, each rectangle is a patch. vicss, the authors' code, uses [3]. Not for `detector: regions`"""
        shifted: bool = True
        """True: each grid of crops also has copies, shifted by half a crop along x, y or both; for `detector: dense`"""
        side: int = Field(default=16, ge=1)
        """cells per axis of the coarse map; for `detector: dense`"""
        pixels: int = Field(default=128, ge=16)
        """side in pixels to which each crop is resized, if `detector` is dense. If `detector` is grid or regions, each
        patch is resized to CLIP's input side, and this option has no effect"""
        smallest: int = Field(default=1000, ge=0)
        """patches with at most this number of pixels are left out. With `detector: regions`, each patch is a region,
        whose pixels are those of its mask. Not for `detector: dense`"""
        most: int = Field(default=16, ge=1)
        """maximum number of regions of an image; the largest regions are kept. For `detector: regions`"""
        vocabulary: Literal["patch", "image"] = "patch"
        """source of a patch's candidate words. patch: captions retrieved for the patch; image: captions retrieved for
        the whole image. Not for `detector: dense`"""
        uncovered: Literal["none", "first"] = "none"
        """treatment of a pixel that is outside all patches with a word. none: the pixel gets no word. first: the pixel
        gets the first word of the image, as in vicss. Not for `detector: dense`"""

        @field_validator("words")
        @classmethod
        def _from_captions(cls, words: StageConfig) -> StageConfig:
            """Return the stage that the option `words` describes, with checked options.

            Raises ValueError unless the returned stage reads only the column `captions` and writes the column `words`.
            Also raises ValueError if an option of the returned stage is invalid.
            """
            try:
                settings = words.settings()
                if set(words.reads()) != {"captions"} or WORDS not in words.writes():
                    raise ValueError(
                        f"the stage {words.use!r} cannot find words in captions. Set `use: words`, or name "
                        "another stage that reads only the column `captions` and writes the column `words`"
                    )
            except ValidationError as failure:
                raise ValueError("; ".join(validation.faults(failure, words.options, lambda _: ""))) from failure
            except OvssError as failure:
                raise ValueError(str(failure)) from failure
            return StageConfig(use=words.use, options=settings.model_dump(mode="json", exclude_defaults=True))

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the checkpoint, the files of the captions, and the files of the stage that finds words."""
        words = config.words.kind()
        return (*config.files(), *config.base_files("dense_cased"), *words.files(config.words.settings()))

    @classmethod
    def elsewhere(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the options that the run's digest ignores.

        The names are those in the class attribute `where`. If `detector` is not regions, "most" is also ignored.
        """
        return (*cls.where, *(() if config.detector == "regions" else ("most",)))

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that the stage reads and writes. Regions are read only for `detector: regions`."""
        return ("image", *(("boxes", "bits") if options.get("detector") == "regions" else ())), cls.writes

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.reads, _ = self.columns(config.model_dump())
        self.model = config.load()
        self.index = build_index(config, config, self.model)
        self.finder = config.words.build()

    def kept(self) -> Mapping[str, int]:
        """Return the size in bytes of this process's cache of text embeddings, as {"text": size}."""
        from ovss_ray.models import text

        return {"text": text.WORDS.held}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment image by image; the crops of an image share forward passes."""
        import torch

        from ovss_ray.models.photograph import rgb

        inputs = zip(*(batch[name] for name in self.reads), strict=True)
        with self.config.computing(), torch.inference_mode():
            rows = [self._segment(rgb(image), *regions) for image, *regions in inputs]
        return {"words": column(words for words, _ in rows), "prediction": column(labels for _, labels in rows)}

    def _segment(self, image: np.ndarray, *regions: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """Return the words and the prediction (H, W) uint16 of an image.

        `regions` is (`boxes`, `bits`) for `detector: regions`, and empty for other detectors.
        """
        if self.config.detector == "dense":
            return self._dense(image)
        if not regions:
            patches = self._grid(image.shape[:2])
            return self._named_patches(image, patches, [np.ones((h, w), bool) for *_, w, h in patches.tolist()])
        return self._named_patches(image, *self._largest(*regions))

    def _dense(self, image: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """Return the words and the prediction (H, W) uint16 of an image, for `detector: dense`."""
        from ovss_ray.models.alpha_clip import grids

        cells = self.embed(image).flatten(0, 1)
        named = self._named(cells, self._retrieve(cells))
        words, numbers = _words(named)
        labels = grids.enlarged(numbers.reshape(self.config.side, -1), image.shape[:2])
        return words, labels.astype(np.uint16)

    def embed(self, image: np.ndarray) -> "Tensor":
        """Return the coarse map of an image (H, W, 3) uint8 RGB: an embedding for each cell of the map.

        The map is (side, side, D) float32, where `side` is the option, and D is the number of features. Embeddings
        have unit norm. If no crop covers a cell, the embedding of the cell is 0.
        """
        import torch

        from ovss_ray.models.alpha_clip import grids, inputs

        shape, config = (self.config.pixels, self.config.pixels), self.config
        pixels = inputs.normalised(image, self.model.device)
        pictures = torch.cat(list(grids.crops(pixels, config.grids, shape, config.shifted)))
        embeddings = self.model.embed_pictures(pictures, config.batch)
        return grids.averaged(embeddings, grids.boxes(config.grids, config.shifted), config.side)

    def _grid(self, size: tuple[int, ...]) -> np.ndarray:
        """Return the boxes (N, 4) int64 of the patches of an image (H, W): x, y, width, height in pixels."""
        from ovss_ray.models.alpha_clip import grids

        return grids.grid_boxes((size[0], size[1]), self.config.grids, self.config.smallest)

    def _largest(self, boxes: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the boxes and masks of the largest regions, the largest first.

        The options `most` and `smallest` limit the number N of returned regions. The returned boxes (N, 4) int64 are
        (x, y, width, height) in pixels. A returned mask is (height, width) bool.
        """
        masks = Masks(boxes, bits)
        areas = np.array([masks[i].sum() for i in range(len(boxes))], np.int64)
        kept = [i for i in np.argsort(-areas, kind="stable") if areas[i] > self.config.smallest][: self.config.most]
        corners = boxes[kept].astype(np.int64).reshape(-1, 4)
        return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), [masks[i] for i in kept]

    def _named_patches(
        self, image: np.ndarray, patches: np.ndarray, masks: Sequence[np.ndarray]
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return the words and the prediction (H, W) uint16 of an image, for its N patches.

        The boxes `patches` (N, 4) int64 are (x, y, width, height) in pixels. `masks[i]` (height, width) bool
        marks the pixels of box i that belong to patch i.
        """
        import torch

        from ovss_ray.models.alpha_clip import grids, inputs

        size = image.shape[:2]
        if not len(patches):
            return _words([])[0], np.full(size, NONE, np.uint16)
        pixels, side = inputs.normalised(image, self.model.device), self.model.variant.pixels
        cut = [pixels[:, y : y + h, x : x + w] for x, y, w, h in patches.tolist()]
        pictures = torch.cat([next(grids.crops(patch, (1,), (side, side), shifted=False)) for patch in cut])
        embeddings = self.model.embed_pictures(pictures, self.config.batch)
        if self.config.vocabulary == "image":
            hits = self._retrieve(self.model.embed_photographs([image])) * len(patches)
        else:
            hits = self._retrieve(embeddings)
        named = self._named(embeddings, hits)
        words, numbers = _words(named)
        kept = numbers != NONE
        values = np.array([score for _, score in named])
        shape = (max(1, len(words["classes"])), *size)
        covered = [mask for mask, named_patch in zip(masks, kept, strict=True) if named_patch]
        scores = grids.patch_scores(numbers[kept], values[kept], patches[kept], shape, covered)
        labels = scores.argmax(0).numpy().astype(np.uint16)
        if self.config.uncovered == "none" or not words["classes"]:
            labels[scores.amax(0).numpy() <= 0] = NONE
        return words, labels

    def _retrieve(self, embeddings: "Tensor") -> list[list[Hit]]:
        """Return the captions that are retrieved for each of n embeddings (n, D)."""
        return self.index.retrieve(embeddings.cpu().numpy(), self.config.count, self.config.duplicates)

    def _named(self, embeddings: "Tensor", hits: Sequence[Sequence[Hit]]) -> list[Named]:
        """Return the best word of each cell or patch, with the word's score.

        `embeddings` (n, D) has the embedding of each cell or patch. The candidate words for row i are the words in the
        captions `hits[i]`.
        """
        import torch

        from ovss_ray.models.alpha_clip import cased

        tower, named = self.model.text, []
        scale = float(tower.logit_scale.exp())
        candidates = self._candidates([tuple(hit.row for hit in retrieved) for retrieved in hits])
        listed = list(dict.fromkeys(name for names in candidates for name in names))
        rows = dict(zip(listed, cased.embed(tower, listed, self.config.templates), strict=True))
        for embedding, retrieved, names in zip(embeddings, hits, candidates, strict=True):
            if not names:
                named.append(("", 0.0))
                continue
            captions = torch.from_numpy(self.index.rows(retrieved)).to(embedding)
            words = torch.stack([rows[name] for name in names])
            scores = cased.scores(embedding, captions, words, scale, self.config).cpu().numpy()
            best = int(scores.argmax())
            named.append((names[best], float(scores[best])))
        return named

    def _candidates(self, retrieved: Sequence[tuple[int, ...]]) -> list[tuple[str, ...]]:
        """Return the candidate words that the stage `self.finder` extracts from each tuple of captions.

        A caption is given by its index in `self.index.texts`.
        """
        unique = list(dict.fromkeys(retrieved))
        captions = [{"texts": [self.index.texts[row] for row in rows], "scores": None} for rows in unique]
        batch = {"image_id": column(map(str, range(len(unique)))), "captions": column(captions)}
        found_words = self.finder(batch, {})["words"]
        table = {
            rows: tuple(str(names[0]) for names in words["classes"])
            for rows, words in zip(unique, found_words, strict=True)
        }
        return [table[rows] for rows in retrieved]


def _words(named: Sequence[Named]) -> tuple[dict[str, Any], np.ndarray]:
    """Return the value of the column `words`, and the word index (n,) int64 of each of n cells or patches.

    The index of a cell or patch without a word is NONE. A word's score is the mean over the word's cells or patches.
    """
    counts = Counter(word for word, _ in named if word)
    order = [word for word, _ in counts.most_common()]  # equal counts keep the order of their first occurrence
    totals = dict.fromkeys(order, 0.0)
    for word, score in named:
        if word:
            totals[word] += score
    index = {word: number for number, word in enumerate(order)}
    words = {
        "classes": [[word] for word in order],
        "source": "dense_cased",
        "scores": [totals[word] / counts[word] for word in order],
    }
    return words, np.array([index.get(word, NONE) for word, _ in named], np.int64)
