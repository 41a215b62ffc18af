"""The training loop of all recipes. A resumed training gives the same weights as a training without interruption.

Batches and all other random values are pure functions of the step.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ovss_ray.errors import OvssError
from ovss_ray.models import runtime
from ovss_ray.runs.folder import environment
from ovss_ray.training import config as configs
from ovss_ray.training.config import Training

CHECKPOINT, LOG, CONFIG = "checkpoint.pt", "log.jsonl", "config.yaml"
CHECKPOINTS = ("start", "clip", "base", "regions", "teacher", "neck", "backbone")
"""Settings of the recipes that are paths of checkpoints."""
WEIGHTS, CARD = "weights.safetensors", "weights.json"
POLY_START = 1e-6
"""Learning rate of the first warm-up step of `decay: poly`, as a fraction of `rate`"""


class Task(Protocol):
    """A network with its data, losses and measurements."""

    model: nn.Module

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step; it is the same in every process."""

    def forward(self, batch: dict[str, Any], step: int) -> Any:
        """Return the network's outputs for a batch; autocast may be on."""

    def losses(self, outputs: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses by name, in float32. `outputs` is the result of `forward`.

        The training minimises the sum of the losses.
        """

    def measure(self) -> dict[str, float]:
        """Return the network's scores on validation scenes."""

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to export."""


@runtime_checkable
class Scheduled(Protocol):
    """A task with its own parameter groups and schedules.

    The loop calls the methods `groups` and `settings` of this task. The functions `loop.groups` and `loop.schedule` are
    not used.
    """

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of AdamW. For a group with weight decay 0, AdamW equals Adam."""

    def settings(self, step: int) -> list[dict[str, float]]:
        """Return the optimizer settings of each group in a step, such as `lr` and `weight_decay`."""


class _Batches(Dataset[dict[str, Any]]):
    def __init__(self, draw: Callable[[int], dict[str, Any]], first: int, end: int) -> None:
        self.draw, self.first, self.end = draw, first, end

    def __len__(self) -> int:
        return max(0, self.end - self.first)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.draw(self.first + index)


def run(config: Training, out: Path) -> Path:
    """Run a training, write its results to the folder `out`, and return the path of the weights.

    Raises OvssError if `out` contains a training with a different config.
    """
    task: Task = configs.part(config.task, "task", "Task")(config)
    train(task, config, out)
    return export(task, out)


def train(task: Task, config: Training, out: Path, until: int | None = None) -> None:
    """Train to the end, or to the step `until`. Resume from the checkpoint in `out` if it exists."""
    device = torch.device(runtime.device(config.device))
    model = task.model.to(device)
    parameters = task.groups() if isinstance(task, Scheduled) else groups(model, config)
    optimizer = torch.optim.AdamW(parameters, lr=config.rate, betas=(0.9, config.beta2))
    claim(out, config)
    steps_done = _resume(out, model, optimizer, device)
    clock = time.monotonic()
    for step, batch in _batches(task, config, steps_done, until or config.steps):
        losses = _step(task, config, optimizer, batch, step, device)
        if (step + 1) % 20 == 0 or step + 1 == config.steps:
            seconds, clock = time.monotonic() - clock, time.monotonic()
            _log(out, {"step": step + 1, **losses, "seconds": round(seconds, 2)})
        if config.measured and ((step + 1) % config.measure_every == 0 or step + 1 == config.steps):
            model.eval()
            _log(out, {"step": step + 1, "measured": task.measure()})
            model.train()
        if (step + 1) % config.save_every == 0 or step + 1 == (until or config.steps):
            _save(out, model, optimizer, step + 1)


def _batches(task: Task, config: Training, first: int, end: int) -> Iterator[tuple[int, dict[str, Any]]]:
    loader = DataLoader(
        _Batches(task.batch, first, end),
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
    )
    return enumerate(loader, first)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _step(
    task: Task,
    config: Training,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """Do one step of the optimizer, and return the losses as numbers. Raises OvssError for a non-finite gradient."""
    torch.manual_seed(config.seed * 1_000_003 + step)
    for group, settings in zip(optimizer.param_groups, _settings(task, config, optimizer, step), strict=True):
        group.update(settings)
    batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    with runtime.autocast(device, config.precision):
        outputs = task.forward(batch, step)
    losses = task.losses(outputs, batch)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    norm = nn.utils.clip_grad_norm_(task.model.parameters(), config.clip_norm or math.inf)
    if not torch.isfinite(norm):
        raise OvssError(f"step {step}: the gradient is NaN or infinite. Lower `rate`, or set precision=fp32")
    optimizer.step()
    return {name: round(float(value.detach()), 4) for name, value in losses.items()}


def _settings(task: Task, config: Training, optimizer: torch.optim.Optimizer, step: int) -> list[dict[str, float]]:
    """Return the settings of each parameter group in a step."""
    if isinstance(task, Scheduled):
        return task.settings(step)
    return [{"lr": config.rate * schedule(config, step)}] * len(optimizer.param_groups)


def schedule(config: Training, step: int) -> float:
    """Return the learning rate of a step as a fraction of `rate` (see Training.decay).

    The warm-up is linear. With `decay: poly`, the warm-up starts at POLY_START, and its values are also multiplied by
    the decay. With `decay: cosine`, the warm-up starts at `first`, if `first` is set. In all other cases, the warm-up
    starts at 1 / `warmup`.
    """
    warm = step / config.warmup if step < config.warmup else 1.0
    if config.decay == "cosine" and config.first is not None and step < config.warmup:
        return config.first + (1 - config.first) * step / max(1, config.warmup - 1)
    if config.decay == "falls":
        fallen = sum(step >= at * config.steps for at in config.falls)
        return 0.1**fallen * min(1.0, (step + 1) / max(1, config.warmup))
    if config.decay == "poly":
        return (POLY_START * (1 - warm) + warm) * (1 - step / config.steps) ** 0.9
    if config.decay == "cosine" and step >= config.warmup:
        height = 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / (config.steps - config.warmup)))
        return config.final + (1 - config.final) * height
    remaining = (config.steps - step) / max(1.0, config.cooldown * config.steps) if config.decay == "line" else 1.0
    return min(1.0, (step + 1) / max(1, config.warmup), remaining)


def groups(model: nn.Module, config: Training) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with weight decay, and without (see Training.undecayed)."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    rules = {"vectors": _embedded, "norms": _normed, "norm_layers": _of_norms}
    plain = rules[config.undecayed](model) if config.undecayed in rules else set()
    return [
        {"params": [value for name, value in named if name not in plain], "weight_decay": config.weight_decay},
        {"params": [value for name, value in named if name in plain], "weight_decay": 0.0},
    ]


def _embedded(model: nn.Module) -> set[str]:
    """Return the names of parameters that have at most one dimension, or are embeddings according to their name.

    A parameter counts as an embedding if the last part of its name contains "_embed", such as `adapter.pos_embed`. Any
    name with "positional_embedding" also counts. The parameter `query_embed.weight` of an nn.Embedding does not count,
    because the last part of this name is `weight`.
    """
    return {
        name
        for name, value in model.named_parameters()
        if value.ndim < 2 or "positional_embedding" in name or "_embed" in name.split(".")[-1]
    }


def _normed(model: nn.Module) -> set[str]:
    """Return the names of three kinds of parameters, as in detectron2.

    They are the parameters of normalisation layers, the weights of nn.Embedding, and the tables of position biases.
    """
    embeddings = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    tables = {name for name, _ in model.named_parameters() if name.endswith("position_bias_table")}
    return _of_norms(model) | embeddings | tables


def _of_norms(model: nn.Module) -> set[str]:
    """Return the names of the weights and biases of normalisation layers."""
    parts = [name for name, part in model.named_modules() if isinstance(part, nn.LayerNorm | nn.GroupNorm)]
    return {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def claim(out: Path, config: Training) -> None:
    """Create the folder `out` and write the config into this folder.

    If the folder already contains a config, the new config replaces the old config. The new values of `device`,
    `workers`, `save_every`, `measure_every`, `measured`, `steps` and `cooldown` may differ from the old values. Raises
    OvssError if the value of any other setting differs.
    """
    out.mkdir(parents=True, exist_ok=True)
    free = {"device", "workers", "save_every", "measure_every", "measured", "steps", "cooldown"}
    file = out / CONFIG
    if file.exists():
        before = configs.load(file)
        if before.model_dump(exclude=free) != config.model_dump(exclude=free):
            raise OvssError(
                f"--out already contains a training with a different config ({file}). Choose another --out, or delete "
                f"{out}"
            )
    file.write_text(configs.dump(config))


def _save(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
    aside = out / f".{CHECKPOINT}.part"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": steps_done}, aside)
    os.replace(aside, out / CHECKPOINT)


def _resume(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    """Load the checkpoint if it exists, and return the number of completed steps."""
    file = out / CHECKPOINT
    if not file.exists():
        return 0
    content = torch.load(file, map_location=device, weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return content["done"]


def export(task: Task, out: Path) -> Path:
    """Write the weights in half precision, and return the path of the weights.

    A JSON file next to the weights has the `history`, and the versions of software and platform.
    """
    halves = {name: value.detach().half().cpu().contiguous() for name, value in task.weights().items()}
    (out / WEIGHTS).write_bytes(safetensors.torch.save(halves))
    card = {"trainings": history(out), "environment": environment()}
    (out / CARD).write_text(json.dumps(card, indent=1) + "\n")
    return out / WEIGHTS


def history(out: Path) -> list[dict[str, Any]]:
    """Return all trainings that led to the weights in the folder `out`, oldest first.

    The last entry is the training in `out`. The earlier entries are the trainings that produced the checkpoints in the
    config of this training (see CHECKPOINTS). A checkpoint without a log in its folder adds no entry. An entry has the
    command, the config, the total seconds and the last scores.
    """
    config = configs.load(out / CONFIG)
    before = [Path(file).parent for file in (getattr(config, key, None) for key in CHECKPOINTS) if file]
    earlier = [training for folder in before if (folder / LOG).exists() for training in history(folder)]
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    latest = {
        "command": f"ovss train {out / CONFIG} --out {out}",
        "config": config.model_dump(mode="json"),
        "seconds": round(sum(line.get("seconds", 0) for line in lines)),
        "measured": next((line["measured"] for line in reversed(lines) if "measured" in line), {}),
    }
    return [*earlier, latest]


def _log(out: Path, line: dict[str, Any]) -> None:
    """Append the entry `line` to the log, and print the entry."""
    with (out / LOG).open("a") as file:
        file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")
    shown = line.get("measured", {key: value for key, value in line.items() if key != "step"})
    print(f"step {line['step']}: " + " ".join(f"{key} {value:.3g}" for key, value in shown.items()), flush=True)
