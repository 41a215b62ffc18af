"""Write goldens: what the official code of a method computes with made-up weights, for the parity tests to compare.

    python -m tests.write_goldens METHOD [CHECKOUT] [--variant NAME] [--out ../shared/parity]

METHOD is one of

  segment_anything  facebookresearch/segment-anything, or the package on PyPI. Run and tested here.
  alpha_clip        SunzeY/AlphaCLIP, e5676c9. Written from its source; its weights and inputs equal those of the
                    goldens in ../shared to the last bit; the network was not run here.
  san               MendelXu/SAN, e19262d, with detectron2, open_clip 2.16.0 and timm 0.6.13. Written from its source;
                    not run here. Needs --photographs.

CHECKOUT is the folder of a clone; without one the installed package is taken. No real weights are needed: every tensor
follows from its official name, its shape and a seed (ovss_ray.models.san.fake), on both sides. What tests read from
../shared and is not written here: parity/metrics and parity/fusioner (evaluators of detectron2, mmsegmentation and
Fusioner), san/camvid_e2e (detectron2's evaluator over CamVid), vfss_variants (VF-SemanticSegmentation), benchmarks/
(files made by the data sets' official scripts) and data/real (photographs, whose sources their PROVENANCE.md names).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tests.goldens import Order, alpha_clip, san, segment_anything
from tests.paths import SHARED

METHODS: dict[str, tuple[Callable[[Order], list[Path]], tuple[str, ...]]] = {
    "segment_anything": (segment_anything.write, ("small", "sam_vit_b", "sam_vit_l", "sam_vit_h")),
    "alpha_clip": (alpha_clip.write, ("vit_b_16", "vit_l_14_336")),
    "san": (san.write, ("vit_b_16", "vit_large_14")),
}
"""Method → what writes its goldens, and the variants, the default first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("checkout", type=Path, nargs="?", help="a clone of the official repository")
    parser.add_argument("--variant", help="; ".join(f"{name}: {', '.join(METHODS[name][1])}" for name in METHODS))
    parser.add_argument("--out", type=Path, default=SHARED / "parity", help="[default: %(default)s]")
    parser.add_argument("--photographs", type=Path, help="san: a folder with " + ", ".join(san.PHOTOGRAPHS.values()))
    given = parser.parse_args()
    write, variants = METHODS[given.method]
    variant = given.variant or variants[0]
    if variant not in variants:
        parser.error(f"{given.method} has no variant {variant!r}; there are {', '.join(variants)}")
    if given.checkout:
        sys.path.insert(0, str(given.checkout.resolve(strict=True)))
    with torch.inference_mode():
        for path in write(Order(variant, given.out, given.checkout, given.photographs)):
            print(path)


if __name__ == "__main__":
    main()
