"""Describe a run: everything that determines its images, as config.json keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval import models
from eval.arms import Arm
from eval.drawers import Drawer


@dataclass(frozen=True)
class Request:
    """What to draw; see `python -m eval run --help`. `None` takes the documented default."""

    model: str
    arms: str
    scales: tuple[float, ...]  # in CFG units
    prompts: Path
    seeds: tuple[int, ...]
    out: Path
    nfe: int = 20
    batch: int | None = None
    limit: int | None = None
    device: str | None = None
    dtype: str | None = None
    grid: str | None = None  # one grid for all arms; else each sampler's own
    compile: bool = False  # the UNet, for speed
    patience: float = 300.0  # seconds that the first of several processes waits for another image


def describe(
    request: Request,
    source: models.Source,
    sd: models.Sampler,
    dtype: str,
    prompts: Sequence[str],
    drawers: dict[Arm, Drawer],
) -> dict:
    """Return the configuration of a run: two with the same one draw the same images.

    The weights are named by content or revision, an arm by its whole plan. Device and versions,
    which decide about last bits only, are in env.json.
    """
    card = sd.card()
    return {
        "model": source.label,
        "standin": source.standin,
        **models.fingerprint(source, card),
        "prediction_type": card.get("prediction_type"),
        "dtype": dtype,
        **({"compiled": True} if request.compile else {}),
        "size": list(models.image_size(sd)),
        "nfe": request.nfe,
        "grid": request.grid,
        "batch": request.batch or source.default_batch,
        "seeds": list(request.seeds),
        "noise": "prompt and seed",  # what it follows from: see `eval.prompts.noise_seed`
        "null_prompt": "",
        "prompts_file": request.prompts.name,
        "prompts_sha256": hashlib.sha256(request.prompts.read_bytes()).hexdigest(),
        "prompts": list(prompts),
        "arms": [
            {
                "key": arm.key,
                "arm": arm.label,
                "sampler": "region" if arm.region else arm.sampler,
                "options": dict(arm.options),
                "guidance": arm.guidance,
                **drawer.describe(),
            }
            for arm, drawer in drawers.items()
        ],
    }
