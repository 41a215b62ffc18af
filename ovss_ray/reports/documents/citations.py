"""BibTeX entries of the methods and data sets of a run, from citations.bib."""

import functools
from collections.abc import Iterable
from pathlib import Path

STAGES = {
    "san": ("xu2023san",),
    "scan": ("liu2024scan",),
    "fusioner": ("ma2022fusioner",),
    "ovsam": ("yuan2024ovsam",),
    "ovsam_everything": ("yuan2024ovsam", "kirillov2023sam"),
    "sam": ("kirillov2023sam",),
    "sam_prompt": ("kirillov2023sam",),
    "retrieve": ("conti2023vocabularyfree",),
    "cased": ("conti2023vocabularyfree", "radford2021clip"),
    "dense_cased": ("conti2024dense", "conti2023vocabularyfree", "radford2021clip"),
    "alpha_clip": ("sun2024alphaclip", "radford2021clip"),
}
"""Stage → BibTeX keys of its method."""
BENCHMARKS = {
    "ade20k": ("zhou2017ade20k",),
    "camvid": ("brostow2009camvid",),
    "cityscapes": ("cordts2016cityscapes",),
    "coco": ("lin2014coco",),
    "coco:stuff": ("lin2014coco", "caesar2018cocostuff"),
    "coco:panoptic": ("lin2014coco", "kirillov2019panoptic"),
    "coco20i": ("lin2014coco", "nguyen2019feature"),
    "cwfid": ("haug2014cwfid",),
    "lvis": ("gupta2019lvis",),
    "pascal5i": ("everingham2010voc", "shaban2017oneshot"),
    "pascal_context": ("mottaghi2014pascalcontext",),
    "sa1b": ("kirillov2023sam",),
    "suim": ("islam2020suim",),
    "voc": ("everingham2010voc",),
}
"""Benchmark, or the part of a benchmark's name before the colon → BibTeX keys of the benchmark's data set."""


def bibtex(stages: Iterable[str], benchmarks: Iterable[str]) -> str:
    """Return the BibTeX entries of stages and benchmarks, without repetition."""
    keys = [key for stage in stages for key in STAGES.get(stage, ())]
    for name in benchmarks:
        family = name.partition(":")[0]
        keys += BENCHMARKS.get(name.partition("@")[0], BENCHMARKS.get(family, ()))
    return "\n\n".join(entries()[key] for key in dict.fromkeys(keys))


@functools.cache
def entries() -> dict[str, str]:
    """Return BibTeX key → entry, for all entries of citations.bib."""
    text = (Path(__file__).parent / "citations.bib").read_text("utf-8")
    return {entry.partition("{")[2].partition(",")[0]: entry.strip() for entry in text.strip().split("\n\n")}
