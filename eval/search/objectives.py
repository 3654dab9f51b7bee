"""What a candidate is worth: a small-sample Fréchet distance, or the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, sqrt
from typing import Protocol

import numpy as np
import torch

from eval.extractor import Extractor, unit
from eval.images import to_uint8
from eval.metrics import Statistics, frechet_of
from eval.models import Sampler
from eval.search.rows import Row, Rows
from samplers import Plan, compile_plan, generators, sample, standard_normal

BATCH = 32  # fastest on a CPU
WORST = 1e6  # of a candidate whose images are not finite
TEACHER_NFE = 64
Planner = Callable[[float], Plan]  # ω → plan


@dataclass(frozen=True)
class Measured:
    """`loss`, lower is better, and the CLIP score × 100 where there is one."""

    loss: float
    clip: float | None = None


class Objective(Protocol):
    """Measures a way of sampling on rows start … start + count − 1."""

    def measure(self, planner: Planner, start: int, count: int) -> Measured: ...


def batches(rows: list[Row]) -> list[list[Row]]:
    """Cut rows into batches of one strength each; a function of the rows alone."""
    ordered = sorted(rows, key=lambda row: row.omega)
    groups = [list(group) for _, group in groupby(ordered, lambda row: row.omega)]
    return [group[i : i + BATCH] for group in groups for i in range(0, len(group), BATCH)]


def _latents(sd: Sampler, plan: Plan, batch: list[Row]) -> torch.Tensor:
    sources = generators([row.seed for row in batch])
    z_T = standard_normal((len(batch), *sd.latent_shape), sources, sd.device)
    return sample(sd.conditioned([row.prompt for row in batch]), z_T, plan)  # noise as in a run


class Frechet:
    """Fréchet distance of the block's images to the reference, all strengths together.

    At equal n only: small samples bias it. Its noise is small between candidates, since all of
    them draw the same prompts from the same noise.
    """

    def __init__(self, sd: Sampler, rows: Rows, judge: Extractor, reference: Statistics):
        self.sd, self.rows, self.judge, self.reference = sd, rows, judge, reference

    def measure(self, planner: Planner, start: int, count: int) -> Measured:
        features, cosines = [], []
        for batch in batches(self.rows.block(start, count)):
            prompts = [row.prompt for row in batch]
            plan = planner(batch[0].omega)
            latents, images = self.sd.generate(plan, prompts, [row.seed for row in batch])
            if not (torch.isfinite(latents).all() and torch.isfinite(images).all()):
                return Measured(WORST, 0.0)
            pixels = to_uint8(images)
            found = self.judge.arrays(pixels)
            features.append(found["fid"])
            cosines.append((found["embedding"] * unit(self.judge.scorer.texts(prompts))).sum(1))
        loss = frechet_of(np.concatenate(features), self.reference)
        return Measured(float(loss), 100 * float(np.concatenate(cosines).mean()))


class Teacher:
    """Root mean square distance of final latents to those of a fine grid from the same noise.

    The teacher is second order with constant ω at 64 evaluations: a search for the solution of
    that equation. Noise and another shape of ω only lead away from it.
    """

    def __init__(self, sd: Sampler, rows: Rows):
        self.sd, self.rows = sd, rows
        self._known: dict[tuple[int, int], list[torch.Tensor]] = {}

    def measure(self, planner: Planner, start: int, count: int) -> Measured:
        cut = batches(self.rows.block(start, count))
        if (start, count) not in self._known:
            self._known[start, count] = [_latents(self.sd, self._fine(b[0].omega), b) for b in cut]
        total = size = 0.0
        for batch, truth in zip(cut, self._known[start, count], strict=True):
            error = _latents(self.sd, planner(batch[0].omega), batch) - truth
            total += float(error.double().square().sum())
            size += error.numel()
        return Measured(sqrt(total / size) if isfinite(total) else WORST)

    def _fine(self, omega: float) -> Plan:
        return compile_plan("dpm2m", self.sd.schedule, nfe=TEACHER_NFE, omega=omega, grid="uniform")
