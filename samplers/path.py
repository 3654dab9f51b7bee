"""Noise along one Brownian path per image: more steps refine a picture and do not redraw it.

The noise of the reverse SDE (η = 1) over a step from σ to σ' is σ'²·(B(1/σ'²) − B(1/σ²)) for a
Brownian motion B, so steps of every size may read one B. Samplers of the same SDE then draw nearly
the same picture from one start, which makes them comparable image by image. (k-diffusion's SDE
samplers share a path over σ for the same reason.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log
from typing import TYPE_CHECKING

import torch

from samplers.noise import one_per_image, outgoing, seed_of

if TYPE_CHECKING:
    from samplers.plan import Plan

CELL = 0.01  # of ln σ: B is known at whole multiples of it, and levels are rounded to them
HIGHEST = 20.0  # the noise level of cell 0, above that of any of SD's schedules
ABOVE = 600  # cells before it, up to σ = 8,069, for schedules that end in (nearly) pure noise


def spans(plan: Plan) -> list[tuple[int, int]]:
    """Return the cells, counted from `HIGHEST` down, that each noisy update of a plan reads.

    Raises ValueError where a step is so small that it gets none.
    """
    levels = [plan.rows[0].sigma, *(row.carry.sigma for row in plan)]
    found = []
    for row, (level, to) in zip(plan, pairwise(levels), strict=True):
        if row.carry.noise:
            first, last = (max(-ABOVE, round(log(HIGHEST / sigma) / CELL)) for sigma in (level, to))
            if first == last:
                raise ValueError(
                    f"noise='path' resolves steps of {CELL} in ln sigma, and the step from sigma "
                    f"{level:.4g} to {to:.4g} is smaller; take fewer evaluations or noise='steps'"
                )
            found.append((first, last))
    return found


class BrownianPath:
    """Draws a plan's noises, in order, as normalised increments of one path per generator.

    Cells above `HIGHEST` have generators of their own, so that all plans read one path, wherever
    they begin.
    """

    def __init__(self, plan: Plan, sources: Sequence[torch.Generator]):
        found = spans(plan)
        self._spans, self._sources = iter(found), sources
        self._at = -ABOVE if found and found[0][0] < 0 else 0
        self._above = [
            torch.Generator(source.device).manual_seed(seed_of(b"%d" % source.initial_seed()))
            for source in (sources if self._at else ())
        ]

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        """Return standard normal noise like a batch (B, …), image k from its own path alone."""
        one_per_image(self._sources, like.shape[0])
        first, last = next(self._spans)
        place = self._sources[0].device
        # B's variance over cell k is e^{2λ} at its end less that at its begin, λ = −ln σ
        growth = torch.tensor([exp(CELL * (k - last)) for k in range(first, last)], device=place)
        weights = growth / growth.norm()
        noise, send = outgoing(like.shape, place, like.device)
        split = min(max(0, -self._at), last - self._at)  # how many cells lie above
        for i, (row, source) in enumerate(zip(noise, self._sources, strict=True)):
            cells = torch.empty((last - self._at, *row.shape), device=place)
            if split:
                cells[:split].normal_(generator=self._above[i])
            cells[split:].normal_(generator=source)
            row.copy_(torch.tensordot(weights, cells[first - self._at :], dims=1))
        self._at = last
        return send(noise).to(like.dtype)
