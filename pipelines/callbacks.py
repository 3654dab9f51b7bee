"""Callbacks for `sample(callback_fn=…)` that save what the sampler sees, as pictures.

solver.sample(prompt=["", "a red fox"], callback_fn=draw_tweedie("steps", every=5))
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from samplers.errors import whole

State = dict[str, Any]  # "z0t", "zt": latents (B, C, h, w); "decode": latents → images in [−1, 1]


def draw_tweedie(folder: str | Path, every: int = 1) -> Callable[[int, Any, State], State]:
    """Return a callback that saves the decoded clean estimate z0t: `FOLDER/x0_STEP.png`.

    folder  made when the first picture is saved
    every   saves the steps 0, every, 2·every …
    A batch lies side by side. Levels map from [−1, 1] to 0 … 255 for every picture alike: contrast
    is not stretched. Files appear whole, under their names, or not at all.
    """
    return _drawing("z0t", "x0", folder, every)


def draw_noisy(folder: str | Path, every: int = 1) -> Callable[[int, Any, State], State]:
    """Return a callback that saves the decoded state zt, `FOLDER/xt_STEP.png`: see `draw_tweedie`.

    The state is the one after the step, in the network's VP units, noise included.
    """
    return _drawing("zt", "xt", folder, every)


def _drawing(key: str, prefix: str, folder: str | Path, every: int) -> Callable:
    every = whole("every", every, 1, 1_000_000)

    def callback(step: int, t: Any, state: State) -> State:
        if step % every == 0:
            _save(state["decode"](state[key]), Path(folder) / f"{prefix}_{step:04d}.png")
        return state

    return callback


def _save(images: torch.Tensor, path: Path) -> None:
    row = torch.cat(list(images.detach().float().cpu()), dim=-1)  # (3, H, B·W)
    levels = ((row.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    data = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()).save(data, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data.getvalue())
    os.replace(temporary, path)
