"""Fit a plan's coefficients by least squares to trajectories of a fine grid.

Given the network's answers, a plan is linear in its coefficients. On fixed levels the weights on
the last D of each step are therefore chosen, step by step, such that the student's next state comes
as close as possible, over all pairs, to where the teacher is from the same noise (in the spirit of
OLSS, arXiv:2305.14677, and S4S, arXiv:2502.17423). They sum to 1 − e^{−h}, so constant data stays
a fixed point and the result passes `Plan.check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log, sqrt

import torch

from eval.models import Sampler
from eval.search.rows import Row
from samplers import Plan, Step, compile_plan, generators, standard_normal, trajectory
from samplers.exponential import weights
from samplers.grids import uniform
from samplers.presets import Preset
from samplers.schedule import alpha_of
from samplers.scheduled import Choice

FINE = 64  # evaluations of the teacher
MEMORY = 3  # values of D that a step may use
RIDGE = 1e-3  # pull towards the exact second-order weights, relative to what the data say


@dataclass(frozen=True)
class Pairs:
    """The teacher on rows of one strength: VE states (B, C, H, W) by noise level, 0 included."""

    rows: list[Row]
    states: dict[float, torch.Tensor]


def teach(sd: Sampler, rows: list[Row]) -> Pairs:
    """Run the teacher: DPM-Solver++(2M) with constant ω on a fine grid, uniform in λ."""
    plan = compile_plan("dpm2m", sd.schedule, nfe=FINE, omega=rows[0].omega, grid="uniform")
    ends = uniform(sd.schedule, FINE)[1:]  # as `snapped` knows them: a plan's own are rounded
    steps = zip(ends, _run(sd, plan, rows), strict=True)
    # on the CPU: all levels of all rows are more than a GPU holds
    return Pairs(rows, {end: (step.latent / alpha_of(end)).cpu() for end, step in steps})


def snapped(sd: Sampler, levels: Iterable[float]) -> list[float]:
    """Return the teacher's levels nearest to these in ln σ, all distinct, from its first one on."""
    fine = uniform(sd.schedule, FINE)[:-1]
    out = fine[:1]
    for level in list(levels)[1:]:
        left = [sigma for sigma in fine if sigma < out[-1]]
        if not left:
            raise ValueError(f"no level of the {FINE} is left for {level:.4g}: ask for fewer steps")
        out.append(min(left, key=lambda sigma: abs(log(sigma / level))))
    return out


def fit(sd: Sampler, sampler: str, levels: list[float], pairs: list[Pairs]) -> Preset:
    """Return the preset with the fitted weights on these levels of the teacher.

    The student starts where the teacher starts and then goes its own way, so that later steps also
    learn to mend what earlier ones left.
    """
    choices: list[Choice] = []
    histories: list[list[torch.Tensor]] = [[] for _ in pairs]
    ends = [*levels[1:], 0.0]
    # a first-order run, whose state is replaced after each step by the fitted one
    students = [_run(sd, _first_order(sd, levels, p.rows[0].omega), p.rows) for p in pairs]
    for i, steps in enumerate(zip(*students, strict=True)):
        alpha = alpha_of(ends[i])
        residuals, features = [], []
        for history, step, part in zip(histories, steps, pairs, strict=True):
            history.insert(0, step.denoised)
            del history[MEMORY:]
            residuals.append(part.states[ends[i]].to(step.latent.device) - step.latent / alpha)
            features.append([past - history[0] for past in history[1:]])
        past = _solve(features, residuals, _exact(levels, i))
        for step, moves in zip(steps, features, strict=True):
            change = sum(c * move for c, move in zip(past, moves, strict=True))
            step.latent = step.latent + alpha * change
        gains = (1 - ends[i] / levels[i] - sum(past), *past)
        choices.append(Choice(levels[i], gains=gains))
    return Preset(sampler, tuple(choices))


def error(sd: Sampler, preset: Preset, pairs: list[Pairs]) -> float:
    """Return the root mean square distance of final latents to the teacher's."""
    total = size = 0.0
    for part in pairs:
        omega, nfe = part.rows[0].omega, len(preset.steps)
        plan = compile_plan(preset.sampler, sd.schedule, nfe=nfe, omega=omega, preset=preset)
        *_, last = _run(sd, plan, part.rows)
        gap = (last.latent.cpu() - part.states[0.0]).double()
        total, size = total + float(gap.square().sum()), size + gap.numel()
    return sqrt(total / size)


def _run(sd: Sampler, plan: Plan, rows: list[Row]) -> Iterator[Step]:
    sources = generators([row.seed for row in rows])
    z_T = standard_normal((len(rows), *sd.latent_shape), sources, sd.device)
    return trajectory(sd.conditioned([row.prompt for row in rows]), z_T, plan)


def _first_order(sd: Sampler, levels: list[float], omega: float) -> Plan:
    return compile_plan("ddim", sd.schedule, nfe=len(levels), omega=omega, grid=[*levels, 0.0])


def _exact(levels: list[float], i: int) -> list[float]:
    """The weights on D[i−1], D[i−2], … of the exact second-order step; none on the way to 0."""
    past = [0.0] * min(i, MEMORY - 1)
    if past and i < len(levels) - 1:
        here, before, end = (-log(levels[k]) for k in (i, i - 1, i + 1))
        past[0] = weights([here, before], here, end)[1]
    return past


def _solve(
    features: list[list[torch.Tensor]], residuals: list[torch.Tensor], near: list[float]
) -> list[float]:
    """Minimise Σ|r − Σ_j c_j·F_j|² with a ridge around `near`; all parts pooled, in float64."""
    if not near:
        return []
    grouped = zip(*features, strict=True)  # by how far back
    columns = [torch.cat([f.flatten() for f in column]).double() for column in grouped]
    matrix = torch.stack(columns, 1)
    target = torch.cat([r.flatten() for r in residuals]).double()
    prior = torch.tensor(near, dtype=torch.float64, device=matrix.device)
    gram = matrix.T @ matrix
    ridge = torch.diag(RIDGE * gram.diagonal().clamp_min(1e-12))
    change = torch.linalg.solve(gram + ridge, matrix.T @ (target - matrix @ prior))
    return (prior + change).tolist()
