"""A click on an image, answered by Open-Vocabulary SAM: CPU milliseconds with the names of the mask.

The stage of the service answers, and the answer becomes JSON with the five best names, as `/v1/prompt` does. HTTP and
Ray are not included. "first" is a click on a new image, which is encoded. "cached" is a click on a known image. The
names are embedded once, before the rounds. `online` measures cached clicks in all processes of `ovss serve`.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovss_ray.actors import ovsam_prompt
from ovss_ray.benchmarks import catalog
from ovss_ray.client import Client
from ovss_ray.pipeline import execution
from ovss_ray.serve.http import mask_answers
from ovss_ray.serve.row import pointed
from ovss_ray.structures.vocabulary import Vocabulary
from perf.pictures import photograph
from perf.timing import interleaved, show, spread, titled

TOP = 5
WARM, CLICKS = 10, 40
IDLE = 15.0
"""Seconds without clicks."""


def measure(name: str, size: tuple[int, int], benchmarks: Sequence[str], rounds: int) -> None:
    """Print the table of one variant, whose weights come with the project, and the classes of benchmarks as names."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    stage = ovsam_prompt.Stage(ovsam_prompt.Stage.Config(variant=name, device="cpu"))
    image = photograph(size)
    table = titled(f"{name}: a click with its {TOP} best names", "names", "first: CPU ms", "cached: CPU ms")
    for benchmark in benchmarks:
        vocabulary = catalog.load(benchmark).vocabulary
        sides = {"first": clicks(stage, image, vocabulary, new=True), "cached": clicks(stage, image, vocabulary)}
        spent = interleaved(sides, rounds, clock=time.process_time)
        table.add_row(f"{len(vocabulary):,} of {benchmark}", *(spread(1000 * spent[side], 1) for side in sides))
    show(table, f"A drawn photograph of {size[0]} × {size[1]} pixels, float32, without HTTP and Ray.")


def clicks(
    stage: ovsam_prompt.Stage, image: np.ndarray, vocabulary: Vocabulary, new: bool = False
) -> Callable[[], str]:
    """A function that answers a click at another place each time it is called; with `new`, on an unknown image."""
    numbers, drawn = count(), np.random.default_rng(0)

    def click() -> str:
        at = drawn.uniform((0, 0), image.shape[1::-1]).tolist()
        digest = f"{vocabulary.digest} {next(numbers) if new else 'known'}"
        row = pointed(image, vocabulary, {"points": [at], "labels": [1], "image": digest})
        batch = execution.start(1, **{name: [value] for name, value in row.items()})
        done = execution.run({"ovsam_prompt": stage}, batch, {vocabulary.digest: vocabulary})
        assert done["error"][0] == "", done["error"][0]
        answered = {name: values[0] for name, values in done.items()}
        answered |= {"size": np.array(image.shape[:2]), "cached": not new}
        answer = mask_answers.prompted(answered, vocabulary, digest, "ovsam", TOP)
        assert len(answer.masks[0].names) == TOP
        return answer.model_dump_json()

    return click


def online(config: str, size: tuple[int, int], benchmark: str, rounds: int) -> None:
    """Print what all processes of a service with this config use for a click on a cached image, idle use left out."""
    from perf.overhead import spent_while
    from perf.serve import serving

    Image.fromarray(photograph(size)).save(file := io.BytesIO(), "JPEG", quality=90)
    drawn = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), config) as service:
        client = Client(service.address)

        def send(times: int) -> None:
            for _ in range(times):
                x, y = drawn.uniform((0, 0), size[::-1]).tolist()
                answer = client.prompt(file.getvalue(), [(x, y, 1)], benchmark=benchmark, top=TOP).answer
                assert len(answer.masks[0].names) == TOP

        send(WARM)
        rate = spent_while(service, lambda: time.sleep(IDLE)).total() / IDLE
        each = []
        for _ in range(rounds):
            begun = time.monotonic()
            seconds = spent_while(service, lambda: send(CLICKS)).total()
            each.append((seconds - rate * (time.monotonic() - begun)) / CLICKS)
    table = titled(f"ovss serve {config}: a click on a cached image", "names", "all processes: CPU ms")
    table.add_row(benchmark, spread(1000 * np.array(each), 1))
    show(
        table, f"A JPEG of {size[0]} × {size[1]} pixels is sent once, {CLICKS} clicks in a round. Idle use is left out."
    )
