"""What the stages share: device, sizes of the run, the peaks of the machine, and the measurement of a call."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovss_ray.models import runtime
from perf.gpu.rows import Row, Sheet
from perf.semantic import peak_of
from perf.timing import settle

PRECISIONS = ("fp32", "bf16")
SIDES = {"cuda": 8192, "cpu": 256}
"""Side of the square matrices whose product measures the peak."""


@dataclass
class Setup:
    """Options of a call."""

    device: str
    tiny: bool
    """the tiny networks that come with the project, in place of the released sizes: a dry run"""
    kit: Path
    """a folder with parity/, the goldens"""
    sheet: Sheet
    rounds: int = 10
    scenes: int = 256
    """drawn scenes per benchmark, for the mIoU of the tiny networks"""
    threads: int = 1
    """for photographs that are decoded, prepared and counted"""
    flops: dict[str, int] = field(default_factory=dict)
    """case → operations"""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of throughput; a dry run saves bf16, which is slow on many CPUs."""
        return PRECISIONS[: 1 if self.tiny else None]

    @cached_property
    def peaks(self) -> dict[str, float]:
        """Operations per second of a matrix product in each precision, the best of several."""
        side = SIDES[torch.device(self.device).type]
        peaks = {}
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            left, right = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
            with runtime.full_precision(torch.device(self.device)):
                spent = self.seconds(lambda left=left, right=right: left @ right, self.rounds + 1)
                peaks[precision] = 2 * side**3 / spent.min()
        return peaks

    def each(self, names: Iterable[str], measure: Callable[[str], None]) -> None:
        """Call `measure` for each network while time is left. A network that fails is noted, and its memory freed."""
        for name in names:
            if self.sheet.due(f"throughput of {name}"):
                with self.sheet.attempt(f"the rest of {name}"):
                    measure(name)
                self.free()

    def seconds(self, call: Callable[[], object], rounds: int | None = None) -> np.ndarray:
        """Seconds (rounds,) of each of several calls. An earlier call has loaded the kernels."""
        spent = []
        for _ in range(rounds or self.rounds):
            settle(self.device)
            begun = time.perf_counter()
            call()
            settle(self.device)
            spent.append(time.perf_counter() - begun)
        return np.array(spent)

    def rate(
        self, row: tuple[str, str, str], precision: str, call: Callable[[], object], units: int, unit: str,
        goal: str = "", flops: int | None = None, rounds: int | None = None,
    ) -> Row:  # fmt: skip
        """Add a row: how many units a second `call` makes, its share of the peak, and its peak memory.

        `row` is stage, network and case. `flops` are the operations of one unit.
        """
        taken = max(0, peak_of(call, self.device))
        spent = float(np.median(self.seconds(call, rounds)))
        share = None if flops is None else units * flops / spent / self.peaks[precision]
        case = f"{row[2]}, {precision}"
        return self.sheet.add(Row(row[0], row[1], case, units / spent, f"{unit}/s", goal, share, taken))

    def operations(self, case: str, call: Callable[[], object]) -> int:
        """Floating-point operations of matrix products, convolutions and attention in a call, as torch counts them.

        A case is counted once.
        """
        if case not in self.flops:
            with FlopCounterMode(display=False) as counter:
                call()
            self.flops[case] = counter.get_total_flops()
        return self.flops[case]

    def free(self) -> None:
        """Return unused memory to the GPU."""
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def photographs(self, count: int, size: tuple[int, int]) -> list[Any]:
        """Drawn photographs (H, W, 3) uint8, all different."""
        from perf import pictures

        return [pictures.photograph(size, number) for number in range(count)]


def about(device: str) -> dict[str, Any]:
    """The machine, versions and precision settings of a call."""
    from perf.timing import machine

    found: dict[str, Any] = {"machine": machine(), "device": device, "torch": torch.__version__}
    found["TF32"] = "off: fp32 is full precision in every row"
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return found


def peaks(setup: Setup) -> None:
    """Add the rows of the machine: matrix products, and copies within its memory."""
    side = SIDES[torch.device(setup.device).type]
    for precision, value in setup.peaks.items():
        setup.sheet.add(Row("machine", "matrix product", f"{side} × {side}, {precision}", value / 1e12, "TFLOP/s"))
    source = torch.empty(side, side, 8, device=setup.device)
    target = torch.empty_like(source)
    spent = float(setup.seconds(lambda: target.copy_(source), setup.rounds + 1).min())
    setup.sheet.add(Row("machine", "copy", "read and written", 2 * source.nbytes / spent / 1e12, "TB/s"))
