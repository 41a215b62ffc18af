"""Profiles: the operations that take most time of SAN, SAM's encoder, AlphaCLIP and SCAN, as text files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ovss_ray.models import runtime
from ovss_ray.models.alpha_clip.network import AlphaClip
from ovss_ray.models.alpha_clip.variants import VARIANTS as ALPHA_CLIPS
from perf import pictures, sam_encoder, scan
from perf.gpu import regions, san
from perf.gpu.setup import Setup

ROWS = 25
SHOWN = 8
"""Lines of a profile: in the file, and printed."""


def measure(setup: Setup) -> None:
    """Write one file with all profiles next to the rows, and print the head of each."""
    path = setup.sheet.path.with_suffix(".profiles.txt")
    path.write_text("")
    with torch.inference_mode(), runtime.full_precision(torch.device(setup.device)):
        for name, call in calls(setup):
            if setup.sheet.due(f"profile of {name}"):
                one(setup, path, name, call)


def one(setup: Setup, path: Path, name: str, call: Callable[[], object]) -> None:
    """Profile one call, the second."""
    call()
    on_gpu = setup.device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize(setup.device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = profiler.key_averages()
    with path.open("a") as file:
        file.write(f"## {name}\n\n{averages.table(sort_by=order, row_limit=ROWS, max_name_column_width=70)}\n\n")
    setup.sheet.say(f"profile of {name} ({path}):")
    longest = sorted(averages, key=lambda event: -getattr(event, order))[:SHOWN]
    total = sum(getattr(event, order) for event in averages) or 1
    for event in longest:
        setup.sheet.say(f"    {getattr(event, order) / total:6.1%}  {event.count:5} ×  {event.key[:100]}")


def calls(setup: Setup) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield names and calls; a network is freed before the next one is built."""
    name, batch = ("san_tiny", 1) if setup.tiny else ("san_vit_b_16", 8)
    image = pictures.photograph((48, 64) if setup.tiny else san.SIZE)
    yield from _san(setup, name, image, batch)
    if setup.tiny:
        return
    yield from _sam(setup)
    yield from _alpha_clip(setup)
    yield from _scan(setup, image)


def _san(setup: Setup, name: str, image: object, batch: int) -> Iterator[tuple[str, Callable[[], object]]]:
    from ovss_ray.structures.vocabulary import Vocabulary

    model = san.loaded(name).to(setup.device)
    inputs = torch.stack([model.preprocess(image)[0]] * batch).to(setup.device)
    for precision in setup.precisions:
        model.precision = precision
        yield f"{name}, network, batches of {batch}, {precision}", lambda: model(inputs)
    classes = 3 if setup.tiny else 847
    vocabulary, rows = Vocabulary.of([str(number) for number in range(classes)]), san.rows_of(model, classes)
    features = model(inputs[:1])
    logits = features.mask_embeddings[0] @ rows.T
    masks = features.mask_logits[0]
    yield f"{name}, label map, K = {classes}", lambda: model.labels(masks, logits, image, vocabulary)


def _sam(setup: Setup) -> Iterator[tuple[str, Callable[[], object]]]:
    model = sam_encoder.made_up("sam_vit_h", "bf16", setup.device)
    inputs = torch.randn(4, 3, model.variant.pixels, model.variant.pixels, device=setup.device)
    yield "sam_vit_h, encoder, batches of 4, bf16", lambda: model.encode(inputs)


def _alpha_clip(setup: Setup) -> Iterator[tuple[str, Callable[[], object]]]:
    model = regions.filled(AlphaClip, ALPHA_CLIPS["alpha_clip_vit_l_14"]).to(setup.device)
    model.precision, side = "bf16", model.variant.pixels
    pictures_in = torch.randn(1, 3, side, side, device=setup.device)
    alphas = torch.randn(128, 1, side, side, device=setup.device)
    which = torch.zeros(128, dtype=torch.int64, device=setup.device)
    yield "alpha_clip_vit_l_14, batches of 128, bf16", lambda: model(pictures_in, alphas, which)


def _scan(setup: Setup, image: object) -> Iterator[tuple[str, Callable[[], object]]]:
    model = scan.made_up("scan_vitB").to(setup.device)
    model.precision = "bf16"
    parts, _, count = scan.parts(model, image, 150)
    yield f"scan_vitB, {count} crops, bf16", parts["crops"]
    yield "scan_vitB, whole, bf16", parts["whole"]
