"""The command `python -m perf NAME`. What is timed is imported when it runs, after the threads were fixed."""

import json
import os
from typing import Annotated

import typer

app = typer.Typer(
    help="Tables of ratios: this project's ways beside the plain ones, in one run, in turn, with fixed threads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Size = Annotated[str, typer.Option(help="of the photograph, HxW in pixels")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Rounds = Annotated[int, typer.Option(min=1, help="how often each side is timed")]
Drawn = Annotated[bool, typer.Option("--drawn", help="drawn photographs, even if real ones are there")]
Classes = Annotated[list[int], typer.Option(help="K; may be given several times")]


@app.callback()
def fix(threads: Annotated[int, typer.Option(min=1, help="of either side, on the CPU")] = 1) -> None:
    """Fix the threads of every library before it is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)


@app.command()
def san(
    variant: Annotated[list[str], typer.Option()] = ["san_vit_b_16", "san_vit_large_14"],  # noqa: B006 - typer copies
    size: Size = "512x683",
    classes: Annotated[int, typer.Option(help="K")] = 150,
    device: Device = "cpu",
    rounds: Rounds = 5,
    text: Annotated[bool, typer.Option(help="embed the vocabulary; else its embeddings are random")] = True,
) -> None:
    """SAN's stages, and the official computation: milliseconds and shares, with made-up weights."""
    from perf import san

    for name in variant:
        san.measure(name, parsed(size), classes, device, rounds, text)


@app.command()
def int8(
    scenes: Annotated[int, typer.Option(min=1, help="per benchmark")] = 64,
    network: Annotated[list[str], typer.Option(help="of the small ones; default: all")] = [],  # noqa: B006
    large: Annotated[bool, typer.Option(help="time SAN's ViT-B, too")] = True,
    size: Size = "512x683",
    rounds: Rounds = 3,
) -> None:
    """The precision int8 beside fp32: mIoU of the small networks, and the time of SAN's ViT-B, on a CPU."""
    from perf import int8

    int8.miou(scenes, network)
    if large:
        int8.seconds("san_vit_b_16", parsed(size), rounds)


@app.command()
def scan(
    variant: Annotated[list[str], typer.Option()] = ["scan_vitB"],  # noqa: B006
    size: Size = "512x683",
    classes: Annotated[int, typer.Option(help="K")] = 150,
    device: Device = "cpu",
    rounds: Rounds = 3,
) -> None:
    """SCAN's parts beside their plain forms: seconds and memory of each, with made-up weights."""
    from perf import scan

    for name in variant:
        scan.measure(name, parsed(size), classes, device, rounds)


@app.command()
def fusioner(
    variant: Annotated[list[str], typer.Option()] = ["fusioner_vit_l_14"],  # noqa: B006
    size: Size = "375x500",
    device: Device = "cpu",
    rounds: Rounds = 1,
) -> None:
    """Fusioner's episodes next to the official order of computing: seconds for images with 1, 2, 3 and 5 classes."""
    from perf import fusioner

    for name in variant:
        fusioner.measure(name, parsed(size), device, rounds)


@app.command()
def semantic(
    classes: Classes = [20, 150, 847, 4000, 20000],  # noqa: B006
    size: Size = "512x683",
    device: Device = "cpu",
    rounds: Rounds = 5,
    plain: Annotated[bool, typer.Option(help="also all scores at once, up to K = 4000: time and peak memory")] = True,
) -> None:
    """Semantic inference and argmax: pruned against dense, and against all K x H x W scores at once."""
    from perf import semantic

    semantic.measure_pruning(classes, parsed(size), device, rounds)
    if plain:  # 20,000 classes would take 28 GB
        semantic.measure([count for count in classes if count <= 4000], parsed(size), device, rounds)


@app.command(hidden=True)
def semantic_peak(side: str, classes: int, size: str, device: str) -> None:
    """Print the peak memory of one side in bytes; a process measures once."""
    from perf import semantic

    print(semantic.peak(side, classes, parsed(size), device))


@app.command()
def sam(
    variant: Annotated[list[str], typer.Option()] = ["sam_tiny", "sam_vit_b"],  # noqa: B006
    points: Annotated[int, typer.Option(min=1, help="per side of the grid; the released default is 32")] = 16,
    size: Size = "683x1024",
    device: Device = "cpu",
    rounds: Rounds = 1,
) -> None:
    """SAM's automatic masks against the released generator: seconds of the CPU, or of the GPU, and peak memory."""
    from perf import sam

    sam.measure(variant, points, parsed(size), device, rounds)


@app.command(hidden=True)
def sam_peak(side: str, variant: str, size: str, device: str, options: str) -> None:
    """Print the peak memory of one side in bytes; a process measures once. The options are JSON."""
    from perf import sam

    print(sam.peak(side, variant, parsed(size), device, json.loads(options)))


@app.command()
def sam_encoder(
    variant: Annotated[list[str], typer.Option()] = ["sam_vit_b"],  # noqa: B006
    images: Annotated[int, typer.Option(min=1, help="in one forward pass")] = 1,
    device: Device = "cpu",
    compiled: Annotated[bool, typer.Option(help="also compiled, which takes minutes")] = True,
    rounds: Rounds = 5,
) -> None:
    """SAM's image encoder in bfloat16, compiled, and as a CUDA graph: time, seconds to compile, and differences."""
    from perf import sam_encoder

    for name in variant:
        sam_encoder.measure(name, images, device, compiled, rounds)


@app.command()
def counting(
    classes: Classes = [20, 150, 847],  # noqa: B006
    size: Size = "512x683",
    rounds: Rounds = 60,
) -> None:
    """The confusion cells of an image against np.bincount."""
    from perf import counting

    counting.measure(classes, parsed(size), rounds)


@app.command()
def run(
    variant: str = "san_vit_b_16",
    images: Annotated[int, typer.Option(min=2)] = 32,
    few: Annotated[
        int, typer.Option(min=0, help="images after which the start-up is over; 0: it is not told apart")
    ] = 4,
    rounds: Rounds = 3,
    drawn: Drawn = False,
    one_pool: Annotated[bool, typer.Option(help="also with all stages in one worker")] = True,
) -> None:
    """The whole Ray run with one worker against a plain PyTorch loop: CPU seconds of all processes."""
    if few >= images:
        raise typer.BadParameter(f"--few {few}: of {images} images all would be start-up")
    from perf import run

    run.measure(variant, images, few, rounds, drawn, run.SIDES if one_pool else run.SIDES[:2])


@app.command(hidden=True)
def run_side(task: str) -> None:
    """Be one side of `run`; the task is JSON."""
    from perf import run

    run.do(json.loads(task))


@app.command()
def decode(rounds: Rounds = 15, drawn: Drawn = False) -> None:
    """Decode photographs by Pillow against the faster decoders that are installed: time and pixels."""
    from perf import decode

    decode.measure(rounds, drawn)


@app.command()
def listing(
    megabytes: Annotated[int, typer.Option(min=1, help="size of the made-up file")] = 1000,
    rounds: Rounds = 1,
) -> None:
    """Peak memory of listing LVIS from a made-up file, streamed and by json.load."""
    from perf import listing

    listing.measure(megabytes, rounds)


@app.command()
def serve(
    config: str = "san_tiny",
    clients: Annotated[int, typer.Option(min=0, help="that ask at once; 0: only the overhead of a request")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="that they ask for")] = 60,
    warm: Annotated[float, typer.Option(min=0, help="seconds before that, in which workers are added")] = 40,
) -> None:
    """`ovss serve`: overhead of a request; under load answers, times, sizes of batches, memory before and after."""
    from perf import serve

    serve.measure(config, clients, seconds, warm)


@app.command()
def chaos(
    seeds: Annotated[int, typer.Option(min=1, help="how many, each with faults of its own")] = 20,
    first: Annotated[int, typer.Option(min=0, help="the first seed")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="of one or two faults for each seed")] = 3,
    clients: Annotated[int, typer.Option(min=1, help="that send requests all the time")] = 16,
    rest: Annotated[float, typer.Option(min=0, help="most seconds between an answer and the next request")] = 2.0,
) -> None:
    """Kill processes of `ovss serve` and restart it, under clients: lost and different answers, times of recovery."""
    from perf import chaos

    if not chaos.measure(first, seeds, rounds, clients, rest):
        raise typer.Exit(1)


@app.command()
def reduce(
    records: Annotated[list[int], typer.Option(min=1, help="number of records; may be given several times")] = [10**6],  # noqa: B006
    rows: Annotated[int, typer.Option(min=0, help="records of a file; 0: as many as in a run of this length")] = 0,
) -> None:
    """Reduction of made-up records in the driver: CPU seconds and peak memory."""
    from perf import reduce

    reduce.measure(records, rows)


@app.command(hidden=True)
def reduce_side(folder: str, number: int) -> None:
    """Print the CPU seconds and the memory of one reduction, as JSON."""
    from perf import reduce

    print(reduce.side(folder, number))


@app.command()
def manifest(
    images: Annotated[int, typer.Option(min=1, help="number of images, each with a made-up record")] = 10**6,
) -> None:
    """Steps of a long run in the driver that read its manifest: CPU seconds and peak memory."""
    from perf import manifest

    manifest.measure(images)


@app.command(hidden=True)
def manifest_side(folder: str, step: str) -> None:
    """Print the CPU seconds and the memory of one step, as JSON."""
    from perf import manifest

    print(manifest.side(folder, step))


@app.command()
def bootstrap(
    images: Annotated[list[int], typer.Option(min=2, help="of a data set; may be given several times")] = [2000, 100],  # noqa: B006
    sets: Annotated[int, typer.Option(min=1, help="data sets, for the coverage of intervals")] = 2000,
    tests: Annotated[int, typer.Option(min=1, help="pairs of runs, for the size of the paired test")] = 1000,
) -> None:
    """Coverage of bootstrap intervals and size of the paired test, by simulation."""
    from perf import bootstrap

    bootstrap.measure(images, sets, tests)


@app.command()
def scale(
    gpus: Annotated[int, typer.Option(min=1, help="faked GPUs, each with a worker process of its own")] = 64,
    seconds: Annotated[float, typer.Option(min=0.01, help="that a batch takes")] = 1.0,
    batches: Annotated[int, typer.Option(min=4, help="per GPU")] = 60,
    small: Annotated[bool, typer.Option(help="small photographs, for the ceiling on a machine with few CPUs")] = False,
) -> None:
    """A run on faked GPUs, with stages that sleep: share of the ideal rate, driver CPU per batch, memory."""
    from perf import scale

    scale.measure(gpus, seconds, batches, small)


@app.command()
def words(
    variant: Annotated[list[str], typer.Option()] = ["san_tiny"],  # noqa: B006
    images: Annotated[int, typer.Option(min=25, help="with different words")] = 500,
    each: Annotated[int, typer.Option(min=1, help="words of an image")] = 10,
    names: Annotated[int, typer.Option(min=1, help="of which the words are drawn")] = 330,
    rounds: Rounds = 1,
) -> None:
    """Text embeddings of images that all have different words: CPU seconds per image, and memory."""
    from perf import words

    for name in variant:
        words.measure(name, images, each, names, rounds)


@app.command()
def names(
    classes: Classes = [1000, 20000],  # noqa: B006
    masks: Annotated[int, typer.Option(min=1, help="masks that are scored")] = 256,
) -> None:
    """Memory of embedding thousands of names for Open-Vocabulary SAM, and of scoring masks with them."""
    from perf import names as table

    table.measure(classes, masks)


@app.command()
def prompt(
    variant: Annotated[list[str], typer.Option()] = ["ovsam_tiny"],  # noqa: B006
    size: Size = "512x683",
    benchmark: Annotated[list[str], typer.Option(help="whose classes are the names")] = ["scenes:instances"],  # noqa: B006
    online: Annotated[str, typer.Option(help="a config: its clicks in `ovss serve` instead, in all processes")] = "",
    rounds: Rounds = 7,
) -> None:
    """A click on an image, answered with mask and names by Open-Vocabulary SAM: CPU milliseconds."""
    from perf import prompt

    if online:
        prompt.online(online, parsed(size), benchmark[0], rounds)
        return
    for name in variant:
        prompt.measure(name, parsed(size), benchmark, rounds)


def parsed(size: str) -> tuple[int, int]:
    """Read HxW. Raises typer.BadParameter."""
    height, _, width = size.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise typer.BadParameter(f"--size {size}: write it as HxW in pixels, such as 512x683")
    return int(height), int(width)


if __name__ == "__main__":
    app()
