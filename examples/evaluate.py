"""Evaluate a method in Python and read its numbers: `uv run python examples/evaluate.py`.

The folder runs/example holds the run. The same script again reads it and computes nothing.
"""

import ovss_ray


def main(out: str = "runs/example", limit: int = 8) -> float:
    """Score `san_tiny` on drawn scenes, print a table, and return the mIoU in percent."""
    report = ovss_ray.evaluate("san_tiny", benchmarks=["scenes:seen", "scenes:held-out"], limit=limit, out=out)
    for name, benchmark in report.benchmarks.items():
        images = benchmark.images
        print(f"{name:16} {images.scored}/{images.expected} images  mIoU {benchmark.metrics['miou']:.2f}")
    return report.benchmarks["scenes:seen"].metrics["miou"]


if __name__ == "__main__":
    main()
