"""The loop of every training: draw, step, report, save. A training that was interrupted goes on to the same weights.

Each batch is a pure function of its step, and so is whatever else is random, so a checkpoint needs the weights, the
optimizer's state and the number of steps done.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ovss_ray import run_folder, stage
from ovss_ray.errors import OvssError
from ovss_ray.training import config as configs
from ovss_ray.training.config import AnyTraining, Training

CHECKPOINT, LOG, CONFIG = "checkpoint.pt", "log.jsonl", "config.yaml"
WEIGHTS, CARD = "weights.safetensors", "weights.json"


class Task(Protocol):
    """What is trained, on what, and how well it does."""

    model: nn.Module

    def batch(self, step: int) -> dict[str, Any]:
        """Draw the batch of a step, in any process."""

    def forward(self, batch: dict[str, Any], step: int) -> Any:
        """What the network makes of a batch, perhaps under autocast."""

    def losses(self, seen: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The losses of what `forward` returned, in float32; their sum is what is minimised."""

    def measure(self) -> dict[str, float]:
        """How well the network does on validation scenes."""

    def weights(self) -> dict[str, Tensor]:
        """What is kept of the network."""


class _Batches(Dataset[dict[str, Any]]):
    def __init__(self, draw: Callable[[int], dict[str, Any]], first: int, end: int) -> None:
        self.draw, self.first, self.end = draw, first, end

    def __len__(self) -> int:
        return max(0, self.end - self.first)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.draw(self.first + index)


def run(config: AnyTraining, out: Path) -> Path:
    """Train what the config says in the folder `out`, and return the weights' file, beside which a card lies.

    Raises OvssError if `out` holds a training by another config.
    """
    task: Task = stage.find("ovss_ray.training", config.task, "Task")(config)
    train(task, config, out)
    return export(task, out)


def train(task: Task, config: Training, out: Path, until: int | None = None) -> None:
    """Train to the end, or `until` a step; goes on where the folder `out` says that it was interrupted."""
    device = torch.device(_device(config))
    model = task.model.to(device)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.rate, betas=(0.9, config.beta2))
    claim(out, config)
    done = _resume(out, model, optimizer, device)
    clock = time.monotonic()
    for step, batch in _batches(task, config, done, until or config.steps):
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
    """One step of the optimizer; returns the losses as numbers."""
    torch.manual_seed(config.seed * 1_000_003 + step)
    factor = schedule(config, step)
    for group in optimizer.param_groups:
        group["lr"] = config.rate * factor
    batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        seen = task.forward(batch, step)
    losses = task.losses(seen, batch)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    norm = nn.utils.clip_grad_norm_(task.model.parameters(), config.clip_norm)
    if not torch.isfinite(norm):
        raise OvssError(f"step {step}: the gradient is not finite; lower `rate`, or set precision=fp32")
    optimizer.step()
    return {name: round(float(value.detach()), 4) for name, value in losses.items()}


def schedule(config: Training, step: int) -> float:
    """The learning rate of a step as part of its full value: up along a line, level, down along a line."""
    if getattr(config, "decay", "line") == "poly":
        return (1 - step / config.steps) ** 0.9
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return min(1.0, (step + 1) / max(1, config.warmup), left)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters: weight decay for matrices, none for vectors and embeddings of positions and queries."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    plain = [v for name, v in named if v.ndim < 2 or "positional_embedding" in name or "_embed" in name.split(".")[-1]]
    kept = {id(value) for value in plain}
    return [
        {"params": [value for _, value in named if id(value) not in kept], "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def _device(config: Training) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def claim(out: Path, config: Training) -> None:
    """Make the folder and write the config into it. Raises OvssError if it holds another one.

    Where and how long it runs may change: a training can be given more steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    free = {"device", "workers", "save_every", "measure_every", "measured", "steps", "cooldown"}
    file = out / CONFIG
    if file.exists():
        before = configs.load(file)
        if before.model_dump(exclude=free) != config.model_dump(exclude=free):
            raise OvssError(f"{out} holds a training by another config ({file}). Choose another --out, or delete it")
    file.write_text(configs.dump(config))


def _save(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
    aside = out / f".{CHECKPOINT}.part"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, aside)
    os.replace(aside, out / CHECKPOINT)


def _resume(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    """Load the checkpoint if there is one; returns how many steps are done."""
    file = out / CHECKPOINT
    if not file.exists():
        return 0
    content = torch.load(file, map_location=device, weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return content["done"]


def export(task: Task, out: Path) -> Path:
    """Write the weights in half precision, and a card that says how they were made; returns the weights' file."""
    halves = {name: value.detach().half().cpu().contiguous() for name, value in task.weights().items()}
    (out / WEIGHTS).write_bytes(safetensors.torch.save(halves))
    card = {"trainings": history(out), "environment": run_folder.environment()}
    (out / CARD).write_text(json.dumps(card, indent=1) + "\n")
    return out / WEIGHTS


def history(out: Path) -> list[dict[str, Any]]:
    """The trainings that led to the weights in a folder, the first one first: config, time taken, last measurement."""
    config = configs.load(out / CONFIG)
    before = [Path(file).parent for file in (config.start, getattr(config, "clip", None)) if file]
    earlier = [one for folder in before if (folder / LOG).exists() for one in history(folder)]
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    own = {
        "command": f"ovss train {out / CONFIG} --out {out}",
        "config": config.model_dump(mode="json"),
        "seconds": round(sum(line.get("seconds", 0) for line in lines)),
        "measured": next((line["measured"] for line in reversed(lines) if "measured" in line), {}),
    }
    return [*earlier, own]


def _log(out: Path, line: dict[str, Any]) -> None:
    """Append to the log, and print."""
    with (out / LOG).open("a") as file:
        file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")
    shown = line.get("measured", {key: value for key, value in line.items() if key != "step"})
    print(f"step {line['step']}: " + " ".join(f"{key} {value:.3g}" for key, value in shown.items()), flush=True)
