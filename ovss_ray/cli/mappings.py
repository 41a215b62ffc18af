"""Tables of `ovss report RUN --mapping`, for a run in which each image has its own words, such as tags.

A mapping assigns the words to the classes of the benchmark (see api/remapping.py).
"""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovss_ray.api.remapping import Remapped, remap

VALUES = {
    "miou": "mIoU",
    "pacc": "pAcc",
    "macc": "mAcc",
    "present_recall": "recall of present classes",
    "unmapped_pixels": "pixels without a class",
    "unmapped_words": "with an unmapped word",
}
"""Key of a value → its heading. Values are percent."""
BOUNDS = {"overlap": "overlap, mIoU", "hungarian": "Hungarian, mIoU", "best_iou": "best IoU, mean over images"}


def show(run: str, options: Sequence[str], console: Console, frequent: int) -> None:
    """Print the scores of a run for each value of the option --mapping, such as "lemma".

    `options`: the values of --mapping. `frequent`: number of words to print for each mapping, the most frequent first.
    Raises OvssError in the same cases as api.remapping.remap.
    """
    for name, remapping in (remap(run, *options) if options else {}).items():
        counts = remapping.words
        console.print(
            f"{name}: {counts['words_per_image']:.2f} words per image, {counts['distinct_words']:.0f} distinct words, "
            f"{counts['pixels_with_word']:.2f} % of the pixels have a word",
            markup=False,
            soft_wrap=True,
        )
        _show_mapped(name, remapping.mapped, console, frequent)
        if bounds := {key: value for key, value in remapping.upper_bounds.items() if key in options}:
            title = f"{name}: upper bounds that use the truth"
            console.print(_pairs(title, {BOUNDS[key]: f"{value:.2f}" for key, value in bounds.items()}))
            console.print("they are not comparable with mIoU")
        for source, values in remapping.vicss.items():
            title = f"{name}: as vicss, from 0 to 1"
            console.print(_pairs(title, {key: f"{value:.4f}" for key, value in values.items()}))
            console.print(f"similarities: {source or 'none'}", markup=False, soft_wrap=True)


def _show_mapped(name: str, several: Sequence[Remapped], console: Console, frequent: int) -> None:
    if several:
        console.print(_mapped(name, several))
    for remapped in several:
        for stamp in remapped.stamps:
            console.print(f"{remapped.mapping}: {stamp}", markup=False, soft_wrap=True)
        console.print(_frequent(name, remapped, frequent))


def _mapped(name: str, several: Sequence[Remapped]) -> Table:
    table = Table("mapping", title=escape(f"{name}: words mapped to classes, in percent"), title_justify="left")
    for heading in VALUES.values():
        table.add_column(heading, justify="right")
    for remapped in several:
        table.add_row(escape(remapped.mapping), *(f"{remapped.values[key]:.2f}" for key in VALUES))
    return table


def _frequent(name: str, remapped: Remapped, most: int) -> Table:
    number = len(remapped.words)
    title = f"{name}: the {min(most, number)} most frequent of {number} words, mapped by {remapped.mapping}"
    table = Table("word", "images", "pixels, %", "class", "rule", title=escape(title), title_justify="left")
    for word in remapped.words[:most]:
        table.add_row(escape(word.word), str(word.images), f"{word.pixels:.2f}", escape(word.label or "–"), word.rule)
    return table


def _pairs(title: str, values: dict[str, str]) -> Table:
    table = Table("value", "", title=escape(title), title_justify="left")
    for key, value in values.items():
        table.add_row(key, value)
    return table
