"""What the training scripts share: resumable state, a warm-up–cosine schedule, a loss log."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from standins import scenes


def warmup_cosine(step: int, total: int, warmup: int = 100, floor: float = 0.03) -> float:
    """Return the learning-rate factor at `step` of `total`: linear up, cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def save_atomic(state: dict, path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


PLACES = ("out", "work", "device", "export", "workers")  # arguments that say where, not what


def settings_of(args: argparse.Namespace) -> dict:
    """Return the arguments that decide the weights, for the checkpoint."""
    given = {name: value for name, value in vars(args).items() if name not in PLACES}
    return {n: str(v.resolve()) if isinstance(v, Path) else v for n, v in given.items()}


class Checkpoint:
    """The state of a training on disk, with the settings that made it."""

    def __init__(self, path: Path, args: argparse.Namespace):
        self.path, self._device, self._settings = path, args.device, settings_of(args)

    def load(self) -> dict | None:
        """Return the state to resume from, None when there is none.

        Raises ValueError when other arguments made it: a card would state what made nothing. More
        steps may be asked for.
        """
        if not self.path.exists():
            return None
        state = torch.load(self.path, map_location=self._device)
        for name, before in state["settings"].items():
            wanted = self._settings.get(name)
            if wanted == before or (name == "steps" and wanted > before):
                continue
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{self.path} was made with {option} {before}, not {wanted}; give {before} to "
                "resume it, or delete it to start anew"
            )
        return state

    def save(self, state: dict) -> None:
        save_atomic(state | {"settings": self._settings}, self.path)


class Log:
    """Append rows to a CSV file and print them: every so many steps, and at the last one."""

    def __init__(
        self, path: Path, columns: tuple[str, ...], every: int, start: int, last: int | None = None
    ):
        self.path, self.columns, self.every, self.last = path, columns, every, last
        self.began, self.start = time.monotonic(), start
        path.parent.mkdir(parents=True, exist_ok=True)
        if start == 0 or not path.exists():
            path.write_text(",".join(("step", *columns)) + "\n")
        else:  # drop rows written after the checkpoint that we resume from
            lines = path.read_text().splitlines()
            kept = [line for line in lines[1:] if int(line.split(",")[0]) <= start]
            path.write_text("\n".join([lines[0], *kept]) + "\n")

    def __call__(self, step: int, values: Callable[[], tuple[float, ...]]) -> None:
        if step % self.every and step != self.last:
            return
        row = values()
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, *(f"{v:.5g}" for v in row)])
        speed = (step - self.start) / (time.monotonic() - self.began)
        shown = "  ".join(f"{c} {v:.4g}" for c, v in zip(self.columns, row, strict=True))
        print(f"step {step}  {shown}  ({speed:.2f} steps/s)", file=sys.stderr, flush=True)


class Ema:
    """An exponential moving average of a module's floating-point state."""

    def __init__(self, module: nn.Module, decay: float = 0.9995):
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        live = module.state_dict()
        mine = [v for v in self.shadow.values() if v.is_floating_point()]
        theirs = [live[k] for k, v in self.shadow.items() if v.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, weight)


def to_tensor(images: list[np.ndarray], device: str) -> torch.Tensor:
    """Turn uint8 (64, 64, 3) renders into floats (B, 3, 64, 64) in [−1, 1]."""
    batch = torch.from_numpy(np.stack(images)).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def fresh_batch(split: str, first: int, size: int, device: str) -> tuple[torch.Tensor, list[str]]:
    """Render scenes first … first + size − 1 of a split: (images in [−1, 1], captions)."""
    drawn = [scenes.sample(split, first + k) for k in range(size)]
    return to_tensor([image for _, image, _ in drawn], device), [text for *_, text in drawn]
