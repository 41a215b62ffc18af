"""Vocabularies of thousands of names for Open-Vocabulary SAM: memory and time of embedding them, and of scoring masks.

The network is small and its weights are made up, but embeddings have the released width. Each row runs in a process
of its own. Its peak resident set is taken before and after each step.
"""

import subprocess
import sys

import numpy as np

from perf.timing import show, titled

SCRIPT = """
import resource, sys, time
import numpy as np, torch
from ovss_ray.models.ovsam import fake, naming, words
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.ovsam.parts import OWN, WORDS
from ovss_ray.models.ovsam.variants import Variant
from ovss_ray.structures.vocabulary import Vocabulary

torch.set_num_threads(1)
count, masks = int(sys.argv[1]), int(sys.argv[2])
variant = Variant(
    roi=4, resnet_width=8, resnet_layers=(1, 1, 1, 1), resnet_heads=4, clip_grid=4, text_width=64, text_heads=2,
    text_layers=1, pixels=256, width=32, heads=2, windows=(6, 0), embed=16, mask_width=4, decoder_heads=2,
    decoder_mlp=32,
)
with torch.device("meta"):
    model = Ovsam(variant)
state = fake.state_dict(variant)
model.load_state_dict({k if k.startswith(OWN) else WORDS + k: v for k, v in state.items()}, assign=True)
model.eval().requires_grad_(False)
image = np.random.default_rng(0).integers(0, 256, (240, 256, 3), np.uint8)
(seen,) = model.embed([image])
logits = torch.randn(masks, 64, 64)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

def score(vocabulary):
    classes = words.grouped(model.classifier(vocabulary), vocabulary)
    return naming.named(model, seen, logits, classes, *words.trained((), vocabulary), top=10)

score(Vocabulary.of(["cat", "dog"]))
before = peak()
vocabulary = Vocabulary.of([f"thing {i} of {i * 7919 % 10007}" for i in range(count)])
begun = time.process_time()
rows = model.classifier(vocabulary)
embedded, seconds = peak(), time.process_time() - begun
begun = time.process_time()
result = score(vocabulary)
scored = time.process_time() - begun
held = rows.nbytes / 1e6, (result.scores.nbytes + result.probabilities.nbytes) / 1e6
print(embedded - before, held[0], seconds, peak() - embedded, held[1], scored)
"""


def measure(counts: list[int], masks: int) -> None:
    """Print the table: megabytes and CPU seconds of each step."""
    columns = ("embed: MB", "kept MB", "CPU s", f"score {masks} masks: MB", "kept MB", "CPU s")
    table = titled("Names for Open-Vocabulary SAM", "names", *columns)
    for count in counts:
        command = [sys.executable, "-c", SCRIPT, str(count), str(masks)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        table.add_row(f"{count:,}", *(f"{value:.1f}" for value in np.array(done.stdout.split(), float)))
    show(table, "MB are growths of the peak resident set; kept: the size of the results.")
