"""CPU seconds and memory of text embeddings, in a run whose images all have different words.

Each image has words of its own, drawn from a list. "by name" is what stages do: they keep embeddings name by name. So
an image costs only the names that no earlier image had. "by vocabulary" embeds all words of every image. The
vocabularies go through the stage `san`, as in a run. Both sides are compared. The weights are made up, except those of
san_tiny.
"""

import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ovss_ray.actors import san
from ovss_ray.models import fake, runtime, text
from ovss_ray.models.san import network
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary
from perf.timing import show, titled

COMPARED = 20
"""Number of vocabularies that are also embedded as a whole"""


def measure(name: str, images: int, words: int, names: int, rounds: int) -> None:
    """Print the table of one variant: `images` vocabularies of `words` words each, out of `names` names.

    `rounds`: how often the vocabularies are embedded as a whole.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    drawn = np.random.default_rng(0)
    every = [f"thing number {number}" for number in range(names)]
    vocabularies = [Vocabulary.of(drawn.choice(every, words, replace=False)) for _ in range(images)]
    text.WORDS = Recent(1 << 26, lambda row: row.nbytes)
    with tempfile.TemporaryDirectory() as folder, runtime.computing(1), torch.inference_mode():
        stage = _stage(name, Path(folder))
        table = titled(f"{name}: text of images with {words} of {names} words", "images", "CPU s per image", "MB")
        begun, first = time.process_time(), 0
        for end in sorted({images // 5, 2 * images // 5, images}):
            for vocabulary in vocabularies[first:end]:
                stage.classifier(vocabulary)
            spent = (time.process_time() - begun) / max(1, end - first)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            table.add_row(f"by name, {first} to {end}", f"{spent:.4f}", f"{memory:,.0f}")
            begun, first = time.process_time(), end
        some, tower = vocabularies[-COMPARED:], stage.model.ov_classifier
        for _ in range(rounds):
            whole = [network.classifier(tower, vocabulary) for vocabulary in some]
        spent = (time.process_time() - begun) / len(some) / rounds
        table.add_row(f"by vocabulary, {len(some)}", f"{spent:.4f}", "")
        pairs = zip(whole, map(stage.classifier, some), strict=True)
        difference = max(float((one - other).abs().max()) for one, other in pairs)
    assert difference < 1e-3, f"the classifiers of both sides differ by {difference}"
    caches = f"{stage.kept()['text'] / 1e6:.2f} MB in the caches of names and vocabularies"
    show(table, f"Images are not repeated. MB: peak of the process. {caches}. Largest difference {difference:.0e}.")


def _stage(name: str, folder: Path) -> san.Stage:
    weights = None
    if name != "san_tiny":
        weights = str(folder / f"{name}.pth")
        fake.write(name, weights)
    return san.Stage(san.Stage.Config(variant=name, weights=weights, device="cpu"))
