"""A model double, a tiny model folder and a request, for the tests of `eval`."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from eval.prompts import noise_seed
from eval.run import Request, run
from samplers import NoiseSchedule

SIDE = 16  # pixels


class Double:
    """A model of noise images; `edit` alters rows, `cost` overspends."""

    def __init__(self, edit=None, cost=0):
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.schedule = NoiseSchedule(np.cumprod(1 - betas))
        self.unet = SimpleNamespace(config=SimpleNamespace(sample_size=SIDE // 8))
        self.vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(1, 1, 1, 1)))
        self.evaluations, self.batches, self.compiled = 0, [], 0
        self._edit, self._cost = edit, cost

    def compile_unet(self):
        self.compiled += 1

    def card(self):
        return {"prediction_type": "epsilon", "model_key": "tiny"}

    def generate(self, plan, prompts, seeds, null_prompt=""):
        self.evaluations += len(plan) + self._cost
        self.batches.append(list(zip(prompts, seeds, strict=True)))
        images = []
        for prompt, seed in self.batches[-1]:
            mixed = seed + zlib.crc32(prompt.encode()) + int(1000 * plan.scale)
            generator = torch.Generator().manual_seed(mixed)
            # Depends on the batch's size on purpose: real networks' last bits do.
            images.append(torch.rand(3, SIDE, SIDE, generator=generator) / len(seeds) ** 0.01)
        latents = torch.tensor([-0.5, 0.5]).expand(len(seeds), 4, 2, 2).clone()
        images = torch.stack(images)
        if self._edit:
            self._edit(self.batches[-1], latents, images)
        return latents, images


def place(tmp_path: Path) -> Path:
    """A model folder with a pipeline's index, marked as a stand-in, and a prompt file."""
    model = tmp_path / "tiny"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text(
        json.dumps({"_class_name": "X", "unet": ["diffusers", "U"], "image_encoder": [None, None]})
    )
    (model / "unet" / "config.json").write_text("{}")
    (model / "card.json").write_text('{"standin": true}')
    (tmp_path / "prompts.txt").write_text("# scenes\na red circle\n\na blue square\nein grüner Ω\n")
    return tmp_path


def request(folder: Path, **changes) -> Request:
    values = {
        "model": str(folder / "tiny"),
        "arms": "ddim,ddim_cfg++@0.6",
        "scales": (3.0, 7.5),
        "prompts": folder / "prompts.txt",
        "seeds": (0, 1, 5),
        "out": folder / "run",
        "nfe": 4,
        "batch": 4,
        "device": "cpu",
    }
    return Request(**(values | changes))


def draw(req: Request, double: Double | None = None):
    double = double or Double()
    return run(req, lambda source, nfe, device, dtype: double), double


def contents(out: Path) -> dict[str, bytes]:
    """Every file that must not depend on how a run was interrupted or shared out."""
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and not p.name.startswith(("timing", "env"))
    }


def fork(work: Callable[[], object]) -> int:
    """Start `work` in a child process; return its id. `wait_for` tells how it ended."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    except ValueError as error:
        print(error, file=sys.stderr)
        code = 2
    finally:
        os._exit(code)


def wait_for(pid: int) -> int:
    """Return the exit code of a child process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def spoil(batch, latents, images):
    """Prompt 1: seed 0 is constant, seed 1 has a NaN latent, seed 5 an infinite pixel."""
    noise = [noise_seed("a blue square", seed) for seed in (0, 1, 5)]
    for row, (_, seed) in enumerate(batch):
        if seed == noise[0]:
            images[row] = 0.5
        elif seed == noise[1]:
            latents[row, 0, 0, 0] = torch.nan
        elif seed == noise[2]:
            images[row, 0, 0, 0] = torch.inf
