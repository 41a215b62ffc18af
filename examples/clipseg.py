"""A model of your own, in one file: CLIPSeg of Hugging Face as a stage. docs/own_model.md explains it.

examples/clipseg.yaml evaluates it. Run it from the root of the repository, with the model in the folder clipseg/:

    PYTHONPATH=. uv run ovss evaluate examples/clipseg.yaml --benchmark scenes:seen --limit 8
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB and vocabulary → prediction (H, W) uint16."""

    reads = ("image", "vocabulary")
    writes = ("prediction",)
    gpu = True  # a worker per GPU, if the cluster has GPUs
    where = ("folder", "names")  # options that do not change the label maps

    class Config(Settings):
        """The model, and its prompts."""

        folder: str
        """folder with the files of the model; weights in safetensors"""
        template: str = "a photo of a {}."
        names: int = Field(default=16, ge=1)
        """maximum number of class names in one pass of the decoder"""

        @field_validator("folder")
        @classmethod
        def _absolute(cls, folder: str) -> str:
            return files.absolute(folder)

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the files that decide the results. Raises OvssError if there are no weights."""
        listed = [file for file in Path(config.folder).glob("*") if file.suffix in (".json", ".txt", ".safetensors")]
        if not any(file.suffix == ".safetensors" for file in listed):
            raise OvssError(f"{config.folder}: no *.safetensors. Type: --set examples.clipseg.folder=FOLDER")
        return tuple(sorted(listed))

    def __init__(self, config: Config, prepared: Any = None) -> None:
        super().__init__(config, prepared)
        import torch  # in the worker only, since checking a config should not load it
        import transformers

        local = {"local_files_only": True}
        self.processor = transformers.CLIPSegProcessor.from_pretrained(config.folder, **local)
        model = transformers.CLIPSegForImageSegmentation.from_pretrained(config.folder, use_safetensors=True, **local)
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.embedded: dict[Vocabulary, Any] = {}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment each image with the classes of its vocabulary."""
        rows = zip(batch["image"], batch["vocabulary"], strict=True)
        return {"prediction": column(self.segment(image, vocabularies[digest]) for image, digest in rows)}

    def segment(self, image: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Return the index of the class with the largest logit at each pixel, (H, W) uint16."""
        import torch

        with torch.inference_mode():
            pixels = self.processor(images=image, return_tensors="pt").pixel_values.to(self.model.device)
            hidden = self.model.clip.get_image_features(pixels, output_hidden_states=True).hidden_states
            layers = [hidden[number + 1] for number in self.model.extract_layers]
            best = torch.full(image.shape[:2], -torch.inf, device=self.model.device)
            labels = torch.zeros(image.shape[:2], dtype=torch.int32, device=self.model.device)
            for index, logits in enumerate(self.logits(layers, self.embeddings(vocabulary))):
                larger = torch.nn.functional.interpolate(logits[None, None], image.shape[:2], mode="bilinear")[0, 0]
                labels[larger > best] = index
                best = torch.maximum(best, larger)
        return labels.cpu().numpy().astype(np.uint16)

    def logits(self, layers: list[Any], embeddings: Any) -> Any:
        """Yield the logits (h, w) of each class. The image was encoded once; the decoder runs once per class."""
        for names in embeddings.split(self.config.names):
            yield from self.model.decoder([layer.expand(len(names), -1, -1) for layer in layers], names).logits

    def embeddings(self, vocabulary: Vocabulary) -> Any:
        """Return the text embeddings (K, D) of the classes' first names, computed once per vocabulary."""
        if vocabulary not in self.embedded:
            prompts = [self.config.template.format(name) for name in vocabulary.names]
            tokens = self.processor(text=prompts, padding=True, return_tensors="pt").to(self.model.device)
            self.embedded[vocabulary] = self.model.clip.get_text_features(**tokens).pooler_output
        return self.embedded[vocabulary]
