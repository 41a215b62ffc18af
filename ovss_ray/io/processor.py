"""Test for bfloat16 instructions of the processor, and a warning for processors without such instructions."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags in /proc/cpuinfo that stand for bfloat16 instructions: two of x86, one of Arm."""
SLOWER = "3 to 5 times slower than fp32"
"""Speed of bfloat16 on a processor without bfloat16 instructions, measured with SAN (perf/RESULTS.md)."""


def lacks_bf16() -> bool:
    """Return whether the processor lacks bfloat16 instructions; False if /proc/cpuinfo is missing or has no flags."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), BF16)
    return not flags & BF16


def slow_bf16(subject: str, advice: str) -> str:
    """Return a warning that bfloat16 is slow on a CPU without bfloat16 instructions.

    The warning begins with `subject`, which names the stages or the network that compute in bfloat16. The last sentence
    of the warning is `advice`.
    """
    return (
        f"{subject}: precision bf16 on a CPU without bf16 instructions (avx512_bf16, amx_bf16) is {SLOWER}, and less "
        f"accurate. bf16 is for GPUs. {advice}"
    )
