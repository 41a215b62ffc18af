"""Describe an image in sentences, with any image-to-text model of Hugging Face, or with a captioner of your own.

A stage such as `words` extracts nouns from the captions, and a segmenter uses the nouns as classes.

For a captioner of your own, write a module with a function `load(config)` that returns the captioner. `config` is this
stage's Config. The captioner is a function of an image (H, W, 3) uint8 RGB and a seed. The captioner returns a list of
(text, score). An optional function `files(config)` returns the files on which the captions depend.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ovss_ray import registry
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

HUGGING_FACE = "transformers"
"""Value of the option `captioner` for models of Hugging Face"""
ENDINGS = (".json", ".txt", ".model", ".safetensors")  # no pickled weights, which could run code
"""Suffixes of the model files that are read: settings, tokeniser and weights."""
Caption = tuple[str, float]
"""Text of a caption, and its score"""


class Stage(stage.Stage):
    """Describe an image (H, W, 3) uint8 RGB by captions.

    Captions of Hugging Face models are sorted by score, the highest first. If `beams` is 1, a score is the mean
    log-probability of the caption's tokens. If `beams` is larger, a score is the beam score that the library
    transformers computes.
    """

    reads = ("image",)
    writes = ("captions",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("model", "device", "batch")

    class Config(Settings):
        """The captioner, and the options of its decoding."""

        model: str = "Salesforce/blip-image-captioning-large"
        """name of an image-to-text model on the Hugging Face hub, or path of a local folder with a model's files"""
        captioner: str = HUGGING_FACE
        """transformers, for a model of Hugging Face; or the dotted name of your own module with a function `load`"""
        prompt: str = ""
        """text that the caption continues, or that a chat model answers; the captions do not include the prompt"""
        count: int = Field(default=1, ge=1)
        """number of captions per image"""
        tokens: int = Field(default=30, ge=1)
        """maximum number of generated tokens per caption"""
        beams: int = Field(default=1, ge=1)
        """number of beams; 1: greedy decoding"""
        sample: bool = False
        """True: draw tokens at random (nucleus sampling), one image per forward pass"""
        top_p: float = Field(default=0.9, gt=0, le=1)
        """probability mass of the nucleus; for `sample`"""
        seed: int = 0
        """seed of the random draws; for `sample`"""
        batch: int = Field(default=8, ge=1)
        """maximum number of images in one forward pass"""
        device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
        """auto (a GPU if there is one), cpu, cuda or cuda:N"""
        precision: Literal["fp32", "bf16"] = "fp32"
        """fp32, or bf16: faster on a GPU, but captions may differ"""
        exact: bool = False
        """True: one image per batch, one thread, deterministic kernels; bit-identical results on the same hardware"""

        @model_validator(mode="after")
        def _enough_beams(self) -> "Stage.Config":
            if self.captioner == HUGGING_FACE and not self.sample and self.count > self.beams:
                raise ValueError(
                    f"count: {self.count} captions need at least {self.count} beams. Set `beams` to {self.count}, or "
                    "set `sample` to true"
                )
            return self

        def resolved_device(self) -> str:
            """Return the device of the captioner: "cpu", "cuda" or "cuda:N"."""
            from ovss_ray.models import runtime

            return runtime.device(self.device)

        @contextmanager
        def computing(self) -> Iterator[None]:
            """Change settings of torch for the whole process. Restore the old settings at the end of the `with` block.

            On a GPU, TensorFloat-32 is off. With `exact`, torch uses one CPU thread and deterministic kernels.
            """
            import torch

            from ovss_ray.models import runtime

            with runtime.computing(exact=self.exact), runtime.full_precision(torch.device(self.resolved_device())):
                yield

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the files on which the captions depend. The files of a Hugging Face model are downloaded if needed.

        If a module of your own has no function `files`, the result is empty. Raises OvssError if the model, the module,
        or the module's function `load` is missing.
        """
        if config.captioner == HUGGING_FACE:
            return model_files(config.model)
        registry.find("ovss_ray.actors", config.captioner, "load")  # raises OvssError for an unknown module
        listed = registry.optional(config.captioner, "files")
        return tuple(listed(config)) if listed else ()

    @classmethod
    def elsewhere(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the options that the run's digest ignores: "device", "batch" and usually "model".

        Instead of "model", the digest includes hashes of the model's files. If a captioner of your own has no function
        `files`, no file is hashed. "model" is then ignored only if the option `model` has the default value.
        """
        default = cls.Config.model_fields["model"].default
        if config.captioner == HUGGING_FACE or config.model == default or registry.optional(config.captioner, "files"):
            return cls.where
        return tuple(name for name in cls.where if name != "model")

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.model: HuggingFace | None = None
        self.describe: Callable[[np.ndarray, int], Sequence[Caption]] | None = None
        if config.captioner == HUGGING_FACE:
            self.model = HuggingFace(self.files(config), config)
        else:
            self.describe = registry.find("ovss_ray.actors", config.captioner, "load")(config)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the captions of every image. With `exact` or `sample`, each image has a separate forward pass."""
        seeds = [seed_of(self.config.seed, str(image_id)) for image_id in batch["image_id"]]
        with self.config.computing():
            if self.describe is not None:
                every = [list(self.describe(image, seed)) for image, seed in zip(batch["image"], seeds, strict=True)]
            else:
                every = list(self._described(list(batch["image"]), seeds))
        return {"captions": column(_value(captions) for captions in every)}

    def _described(self, images: Sequence[np.ndarray], seeds: Sequence[int]) -> Iterator[list[Caption]]:
        """Yield the captions of each image."""
        assert self.model is not None
        size = 1 if self.config.exact or self.config.sample else self.config.batch
        for begin in range(0, len(images), size):
            yield from self.model(images[begin : begin + size], seeds[begin])


def _value(captions: Sequence[Caption]) -> dict[str, list[str] | list[float]]:
    """Return the captions of an image as a value of the column `captions`: their texts and their scores."""
    return {"texts": [str(text) for text, _ in captions], "scores": [float(score) for _, score in captions]}


def seed_of(seed: int, image_id: str) -> int:
    """Return the seed of an image's random draws. This seed has 63 bits, and is a hash of `seed` and `image_id`."""
    return int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:8], "big") >> 1


def model_files(model: str) -> tuple[Path, ...]:
    """Return the files of a model in a local folder or on the Hugging Face hub; download them if needed.

    Raises OvssError if the model does not exist, cannot be downloaded, or has no weights in safetensors.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _downloaded(model)
    listed = sorted(file.absolute() for file in folder.iterdir() if file.suffix in ENDINGS)
    if not any(file.suffix == ".safetensors" for file in listed):
        raise OvssError(
            f"{folder}: no weights in safetensors. Pickled weights are not read, since they could run code. Save the "
            "model again with save_pretrained(FOLDER, safe_serialization=True), and add --set captions.model=FOLDER to "
            "the command"
        )
    return tuple(listed)


def _downloaded(model: str) -> Path:
    """Return the local folder of a model of the Hugging Face hub. The model is downloaded unless it is cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{ending}" for ending in ENDINGS]
    try:
        try:
            return Path(snapshot_download(model, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(model, allow_patterns=patterns))
    except (OSError, HFValidationError, ValueError) as failure:
        reason = str(failure).partition("\n")[0] or type(failure).__name__
        raise OvssError(
            f"captions.model: {model!r} is neither a folder nor a model that could be downloaded: {reason}. Download "
            "the model on a machine with a network, and add --set captions.model=FOLDER to the command"
        ) from failure


class HuggingFace:
    """An image-to-text model of Hugging Face, with the processor of its inputs."""

    def __init__(self, listed: Sequence[Path], config: Stage.Config) -> None:
        """Load the model from the files `listed`. Raises OvssError if transformers is missing or cannot load a file."""
        if find_spec("transformers") is None:
            raise OvssError(
                "captions: the package transformers is missing. To install it, run `pip install ovss_ray[captions]`"
            )
        import transformers

        folder, local = listed[0].parent, {"local_files_only": True}
        try:
            processor = transformers.AutoProcessor.from_pretrained(folder, **local)
            joint = hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")
            self._joint = processor if joint else None
            images, words = transformers.AutoImageProcessor, transformers.AutoTokenizer
            self._images = processor.image_processor if joint else images.from_pretrained(folder, **local)
            self._tokeniser = processor.tokenizer if joint else words.from_pretrained(folder, **local)
            auto = transformers.AutoModelForImageTextToText
            model = auto.from_pretrained(folder, use_safetensors=True, **local)
        except (OSError, ValueError, KeyError, RuntimeError) as failure:
            reason = str(failure).partition("\n")[0]
            raise OvssError(f"{folder}: not an image-to-text model that transformers can load: {reason}") from failure
        self._model, self._config = model.eval().to(config.resolved_device()), config

    def __call__(self, images: Sequence[np.ndarray], seed: int) -> list[list[Caption]]:
        """Return the captions of each image (H, W, 3) uint8 RGB, best first."""
        import torch

        from ovss_ray.models import runtime
        from ovss_ray.models.photograph import rgb

        config, device = self._config, self._model.device
        inputs = {name: value.to(device) for name, value in self._inputs([rgb(image) for image in images]).items()}
        sampling = {"do_sample": True, "top_p": config.top_p, "top_k": 0} if config.sample else {"do_sample": False}
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode(), runtime.autocast(device, config.precision):
            torch.manual_seed(seed)
            answer = self._model.generate(
                **inputs, **sampling, num_beams=config.beams, num_return_sequences=config.count,
                max_new_tokens=config.tokens, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        texts = map(self._text, answer.sequences, self._prompts(inputs, len(answer.sequences)))
        captions = list(zip(texts, self._scores(answer), strict=True))
        rows = (captions[begin : begin + config.count] for begin in range(0, len(captions), config.count))
        return [sorted(row, key=lambda caption: -caption[1]) for row in rows]

    def _inputs(self, images: Sequence[np.ndarray]) -> dict[str, "Tensor"]:
        """Return the model's inputs for images, by name. The tokens of the prompt, if any, are repeated per image."""
        listed, prompts = list(images), [self._config.prompt] * len(images)
        if self._joint is not None and self._config.prompt:
            return dict(self._joint(images=listed, text=prompts, return_tensors="pt"))
        inputs = dict(self._images(listed, return_tensors="pt"))
        if self._config.prompt:
            inputs |= dict(self._tokeniser(prompts, return_tensors="pt", add_special_tokens=False))
        return inputs

    def _prompts(self, inputs: dict[str, "Tensor"], count: int) -> "list[Tensor | None]":
        """Return the tokens of the prompt, repeated `count` times. If there is no prompt, each entry is None."""
        if "input_ids" not in inputs:
            return [None] * count
        return list(inputs["input_ids"].repeat_interleave(count // len(inputs["input_ids"]), 0))

    def _text(self, sequence: "Tensor", prompt: "Tensor | None") -> str:
        """Return the text of a token sequence. If tokens or text begin with the prompt, the prompt is removed."""
        if prompt is not None and sequence[: len(prompt)].equal(prompt):
            sequence = sequence[len(prompt) :]
        text = str(self._tokeniser.decode(sequence, skip_special_tokens=True)).strip()
        start = self._config.prompt.strip()
        return text[len(start) :].strip() if start and text.lower().startswith(start.lower()) else text

    def _scores(self, answer: Any) -> list[float]:
        """Return a score per caption. If `beams` is 1, scores are mean log-probabilities, otherwise beam scores."""
        import torch

        beams = getattr(answer, "sequences_scores", None)
        if beams is not None:
            return [float(value) for value in beams]
        logits = torch.stack(answer.scores, 1).float()  # (sequences, steps, tokens)
        generated = answer.sequences[:, -logits.shape[1] :]
        values = logits.log_softmax(-1).gather(2, generated[..., None])[..., 0]
        ends = torch.as_tensor(self._ends(), device=generated.device)
        over = torch.isin(generated, ends).int().cumsum(1) - torch.isin(generated, ends).int()
        real = over == 0  # up to the first end token; what follows is padding
        return [float(row[kept].mean()) for row, kept in zip(values.cpu(), real.cpu(), strict=True)]

    def _ends(self) -> list[int]:
        """Return the ids of the model's end tokens."""
        ends = self._model.generation_config.eos_token_id
        return [int(end) for end in np.ravel([] if ends is None else ends)]
