"""Class lists that come with the project, one file each."""

from pathlib import Path

from ovss_ray.structures.vocabulary import Vocabulary

# The suffix after "@" in a file's name stands for the methods that use the class names in the file:
# catseg: CAT-Seg and SED; ebseg: EBSeg; fcclip: FC-CLIP, MAFT+ and EBSeg, with several names per class;
# mmseg: mmsegmentation; openseg: OpenSeg and ODISE; ovsam: Open-Vocabulary SAM; ovseg: OVSeg and SCAN;
# proxyclip: ProxyCLIP and Trident. The ovsam lists have COCO's 80 thing classes, with the names of COCO's fcclip list.
_CLASSES = Path(__file__).parent / "classes"


def variants(name: str) -> list[str]:
    """Return the suffixes that select other class names of a benchmark, such as "catseg" in "ade20k:150@catseg"."""
    return [path.stem.partition("@")[2] for path in sorted(_CLASSES.glob(f"{name.replace(':', '_')}@*.txt"))]


def base(name: str) -> str:
    """Return the name of a benchmark without the suffix for other class names ("@catseg") or other labels ("-json").

    ade20k:150@catseg becomes ade20k:150, and pascal_context:59-json becomes pascal_context:59.
    """
    return name.partition("@")[0].removesuffix("-json")


def class_list(name: str) -> tuple[str, ...]:
    """Return the lines of the file classes/NAME.txt, where NAME is `name`.

    Spaces at the end of a line are kept, because they belong to a class name in some official lists.
    """
    return tuple((_CLASSES / f"{name}.txt").read_text("utf-8").removesuffix("\n").split("\n"))


def vocabulary(name: str) -> Vocabulary:
    """Return classes/NAME.txt as a vocabulary: one class per line, its names separated by tabs."""
    return Vocabulary.of(line.split("\t") for line in class_list(name))
