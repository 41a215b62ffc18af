"""SAN end to end: photographs are decoded, segmented and counted, as in a run but without Ray. Images per second.

Two ways are measured. In `stage`, the thread that feeds the GPU also resizes photographs, as the stage `san` does. In
`ahead`, other threads have resized them before. Decoding and counting are always in other threads.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ovss_ray.io import images
from ovss_ray.metrics.confusion import Counter
from ovss_ray.models import runtime
from ovss_ray.models.san import network
from ovss_ray.structures.vocabulary import Vocabulary
from perf import pictures
from perf.gpu.setup import Setup
from perf.san import made_up

GOALS = {("san_vit_b_16", 847, "bf16"): ">= 600"}
"""Network, classes and precision → images per second on one H200."""
BATCHES = (1, 2, 4, 8, 16, 32)
SIZE = (512, 683)
"""Pixels of a photograph of ADE20K, typically."""
NETWORKS = {"san_vit_b_16": BATCHES, "san_vit_large_14": BATCHES, "san_tiny": (8, 32)}
"""Network → batches. san_tiny is trained, so that its masks keep more classes per tile than made-up ones."""
DISTINCT = 32
"""Photographs that are decoded again and again."""


def measure(setup: Setup) -> None:
    """Add rows for networks, classes, precisions and batches."""
    files = [encoded(picture) for picture in setup.photographs(*((1, (48, 64)) if setup.tiny else (DISTINCT, SIZE)))]
    batches = {"san_tiny": (1,)} if setup.tiny else NETWORKS
    setup.each(batches, lambda name: _measure(setup, name, batches[name], files))


def _measure(setup: Setup, name: str, batches: Sequence[int], files: Sequence[bytes]) -> None:
    model = loaded(name).to(setup.device)
    with torch.inference_mode(), runtime.full_precision(torch.device(setup.device)):
        for classes in (3,) if setup.tiny else (847, 150):
            for precision in setup.precisions:
                model.precision = precision
                for batch in batches:
                    what = f"{name}, K = {classes}, {precision}, batches of {batch}"
                    if setup.sheet.due(what):
                        with setup.sheet.attempt(what):
                            throughput(setup, name, model, classes, batch, files)
        parts(setup, name, model, files[0], min(8, batches[-1]))
        text(setup, name, model, 3 if setup.tiny else 847)


def loaded(name: str) -> network.San:
    """The tiny network with its trained weights, or another with made-up ones, on the CPU."""
    from ovss_ray import models

    return models.load(name) if name == "san_tiny" else made_up(name)


def encoded(image: np.ndarray) -> bytes:
    """The file of a photograph: JPEG, as ADE20K's are."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def rows_of(model: network.San, classes: int) -> torch.Tensor:
    """Random classifier rows (K + 1, D) of the temperature 100: the time does not depend on the words."""
    torch.manual_seed(0)
    return 100 * F.normalize(torch.randn(classes + 1, model.variant.embed), dim=-1).to(model.device)


def text(setup: Setup, name: str, model: network.San, classes: int) -> None:
    """Add a row: class names embedded per second, by 14 templates each."""
    vocabulary = Vocabulary.of([f"thing number {number}" for number in range(classes)])
    case = ("san", name, f"text of {classes} names")
    setup.rate(case, "fp32", lambda: network.classifier(model.ov_classifier, vocabulary), classes, "names", rounds=1)


def throughput(setup: Setup, name: str, model: network.San, classes: int, batch: int, files: Sequence[bytes]) -> None:
    """Add a row for each way: images per second from files to counts."""
    vocabulary, rows = Vocabulary.of([str(number) for number in range(classes)]), rows_of(model, classes)
    counter, truth = Counter(classes), pictures.regions(classes, images.decode(files[0], "drawn").shape[:2])
    count = batch if setup.tiny else max(4 * batch, 32)

    def opened(file: bytes) -> tuple[np.ndarray, torch.Tensor | None]:
        return images.decode(file, "drawn"), None

    def prepared(file: bytes) -> tuple[np.ndarray, torch.Tensor | None]:
        image = images.decode(file, "drawn")
        return image, model.preprocess(image)[0]

    def run(prepare: Callable[[bytes], tuple[np.ndarray, torch.Tensor | None]]) -> None:
        ready = ahead(pool, prepare, (files[i % len(files)] for i in range(count)), 4 * batch)
        counted: list[Future[object]] = []
        while part := list(islice(ready, batch)):
            inputs = [model.preprocess(image)[0] if given is None else given for image, given in part]
            features = model(runtime.up(torch.stack(inputs), model.device))
            logits = features.mask_embeddings @ rows.T
            for i, (image, _) in enumerate(part):
                labels = model.labels(features.mask_logits[i], logits[i], image, vocabulary)
                counted.append(pool.submit(counter, truth, labels))
        for future in counted:
            future.result()

    case, flops = f"K = {classes}, batches of {batch}", operations(setup, name, model, files[0])
    with ThreadPoolExecutor(setup.threads) as pool:
        ways = {"stage": opened} | ({"ahead": prepared} if batch >= 8 or setup.tiny else {})
        for way, prepare in ways.items():
            goal = GOALS.get((name, classes, model.precision), "") if batch >= 8 else ""
            setup.rate(
                ("san", name, f"{case}, {way}"), model.precision, lambda prepare=prepare: run(prepare),
                count, "images", goal, flops, rounds=1 if setup.tiny else 2,
            )  # fmt: skip


def operations(setup: Setup, name: str, model: network.San, file: bytes) -> int:
    """Operations of the network for one photograph; those of the label map depend on the masks, and are left out."""
    image = images.decode(file, "drawn")
    return setup.operations(name, lambda: model(model.preprocess(image)[0][None].to(model.device)))


def ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[bytes], tuple[np.ndarray, torch.Tensor | None]],
    files: Iterator[bytes],
    most: int,
) -> Iterator[tuple[np.ndarray, torch.Tensor | None]]:
    """Yield prepared photographs in order; threads prepare at most `most` of them in advance."""
    waiting = [pool.submit(prepare, file) for file in islice(files, most)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(prepare, file) for file in islice(files, 1)]


def parts(setup: Setup, name: str, model: network.San, file: bytes, batch: int) -> None:
    """Add rows for the parts of an image's way: resize on the CPU, network, and label map, in both precisions."""
    if not setup.sheet.due(f"parts of {name}"):
        return
    image = images.decode(file, "drawn")
    size = f"{image.shape[0]} × {image.shape[1]}"
    setup.rate(("san", name, f"resize {size}"), "fp32", lambda: model.preprocess(image), 1, "images")
    inputs = torch.stack([model.preprocess(image)[0]] * batch).to(model.device)
    for precision in setup.precisions:
        model.precision = precision
        case = ("san", name, f"network alone, batches of {batch}")
        flops = operations(setup, name, model, file)
        setup.rate(case, precision, lambda: model(inputs), batch, "images", flops=flops)
    features = model(inputs[:1])
    for classes in (3,) if setup.tiny else (150, 847):
        vocabulary, rows = Vocabulary.of([str(number) for number in range(classes)]), rows_of(model, classes)
        logits = features.mask_embeddings[0] @ rows.T
        setup.rate(
            ("san", name, f"label map, K = {classes}"), "fp32",
            lambda logits=logits, words=vocabulary: model.labels(features.mask_logits[0], logits, image, words),
            1, "images",
        )  # fmt: skip
