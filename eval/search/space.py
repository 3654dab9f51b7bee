"""Candidates of the search: presets, where they start from, and how they vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, fsum, log

import numpy as np

from samplers import NoiseSchedule, guidance
from samplers.grids import make_grid
from samplers.presets import Preset
from samplers.scheduled import Choice

Steps = list[Choice]
GRIDS = ("ays", "karras", "blend", "leading")
GAP = 0.02  # least distance of neighbouring levels, in ln σ
NOISE = (0.0, 0.25, 0.5, 1.0, 1.4)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LATE = 2.0  # ω at which guidance that grows late is written down as weights
CROSSOVER = 0.3  # share of children with two parents (USF, arXiv:2312.07243)


def hand_made(sampler: str, schedule: NoiseSchedule, nfe: int) -> list[Preset]:
    """Return what a search starts from: customary grids, with and without noise, at a constant ω,
    and the default's noise with guidance that grows late."""
    half = {"eta": 1.0, "history": 0.5}
    flat, late = guidance.constant(1.0), guidance.late(schedule, LATE)
    kinds = (({}, flat), ({"order": 1, "eta": 1.0}, flat), (half, flat), (half, late))
    found = []
    for grid in GRIDS:
        levels = make_grid(grid, schedule, nfe)[:-1]
        for kind, rate in kinds:
            steps = [Choice(level, weight=rate(level), **kind) for level in levels]
            found.append(Preset(sampler, tuple(legal(steps, schedule))))
    return found


def child(parents: list[Preset], rng: np.random.Generator, schedule: NoiseSchedule) -> Preset:
    """Vary one of the parents, best first, or cross two; better ranks are drawn more often."""
    odds = np.arange(len(parents), 0, -1, dtype=float)
    first, second = rng.choice(len(parents), 2, p=odds / odds.sum())
    steps = list(parents[first].steps)
    if rng.random() < CROSSOVER and first != second:
        steps = _crossed(steps, parents[second].steps, rng)
    for _ in range(rng.integers(1, 4)):
        steps = _MOVES[rng.integers(len(_MOVES))](steps, rng)
    return Preset(parents[first].sampler, tuple(legal(steps, schedule)))


def legal(steps: Steps, schedule: NoiseSchedule) -> Steps:
    """Mend what a variation broke, so that every candidate compiles to a checked plan.

    Levels fall inside the schedule, at least GAP apart; the step to 0 is plain; a corrected step
    has no noise; weights have mean 1.
    """
    logs = [min(log(step.sigma), log(schedule.sigma_max)) for step in steps]
    for i in range(1, len(logs)):
        logs[i] = min(logs[i], logs[i - 1] - GAP)
    floor = log(schedule.sigma_min)
    for i in reversed(range(len(logs))):
        logs[i] = max(logs[i], floor)
        floor = logs[i] + GAP
    mean = fsum(step.weight for step in steps) / len(steps)
    out = []
    for i, (step, value) in enumerate(zip(steps, logs, strict=True)):
        last = i == len(steps) - 1
        eta = 0.0 if last else step.eta
        fields = {"eta": eta, "corrector": step.corrector and not eta and not last}
        weight = float(f"{step.weight / mean:.6g}")
        out.append(replace(step, sigma=float(f"{exp(value):.9g}"), weight=weight, **fields))
    return out


def _crossed(a: Steps, b: tuple[Choice, ...], rng: np.random.Generator) -> Steps:
    """Mix the levels in ln σ; take the decisions of `a` up to some step, then those of `b`."""
    mix, cut = rng.random(), rng.integers(1, len(a)) if len(a) > 1 else 1
    decided = [*a[:cut], *b[cut:]]
    levels = [x.sigma**mix * y.sigma ** (1 - mix) for x, y in zip(a, b, strict=True)]
    return [replace(d, sigma=level) for d, level in zip(decided, levels, strict=True)]


def _run(n: int, rng: np.random.Generator) -> range:
    """Some neighbouring steps: one decision seldom matters for a step alone."""
    start = int(rng.integers(n))
    return range(start, min(n, start + 1 + int(rng.integers(max(1, n // 2)))))


def _on_run(**draw: Callable[[np.random.Generator], object]) -> Callable:
    """Return a move that sets fields, the same value on a run of steps."""

    def move(steps: Steps, rng: np.random.Generator) -> Steps:
        chosen, out = {name: one(rng) for name, one in draw.items()}, list(steps)
        for i in _run(len(steps), rng):
            out[i] = replace(out[i], **chosen)
        return out

    return move


def _shift_level(steps: Steps, rng: np.random.Generator) -> Steps:
    i, out = int(rng.integers(len(steps))), list(steps)
    near = steps[i - 1] if i else steps[min(1, len(steps) - 1)]
    gap = abs(log(near.sigma / steps[i].sigma)) or 1.0
    out[i] = replace(steps[i], sigma=steps[i].sigma * exp(0.35 * gap * rng.standard_normal()))
    return out


def _bend_levels(steps: Steps, rng: np.random.Generator) -> Steps:
    """Pull the low levels up or down: quadratic in the step's index, so the first stays."""
    by, last = 0.5 * rng.standard_normal(), max(1, len(steps) - 1)
    return [replace(s, sigma=s.sigma * exp(by * (i / last) ** 2)) for i, s in enumerate(steps)]


def _tilt_weights(steps: Steps, rng: np.random.Generator) -> Steps:
    by, last = 0.4 * rng.standard_normal(), max(1, len(steps) - 1)
    tilts = [exp(by * (2 * i / last - 1)) for i in range(len(steps))]
    return [replace(s, weight=s.weight * t) for s, t in zip(steps, tilts, strict=True)]


def _scale_weights(steps: Steps, rng: np.random.Generator) -> Steps:
    factor, out = exp(0.4 * rng.standard_normal()), list(steps)
    for i in _run(len(steps), rng):
        out[i] = replace(out[i], weight=out[i].weight * factor)
    return out


_MOVES = (
    _shift_level,
    _bend_levels,
    _tilt_weights,
    _scale_weights,
    _on_run(order=lambda rng: int(rng.integers(1, 4))),
    _on_run(eta=lambda rng: float(rng.choice(NOISE)), corrector=lambda rng: False),
    _on_run(history=lambda rng: float(rng.choice(SHARES))),
    _on_run(eta=lambda rng: 0.0, corrector=lambda rng: True),
)
