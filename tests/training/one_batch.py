"""A training that sees one batch only, whose loss has to fall."""

from pathlib import Path
from typing import Any

from ovss_ray.training import loop


def totals(task: Any, settings: Any, folder: Path) -> list[float]:
    """Train a task on its first batch in every step, and return the total loss of each step."""
    batch, losses = task.batch(0), task.losses
    steps: list[dict[str, Any]] = []
    task.batch = lambda step: batch
    task.losses = lambda *arguments: steps.append(losses(*arguments)) or steps[-1]
    loop.train(task, settings, folder)
    return [sum(value.item() for value in step.values()) for step in steps]
