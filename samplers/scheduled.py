"""A solver whose every step is chosen for itself: order, noise, history, corrector, free weights.

What a preset (presets.py) holds and what `python -m eval search` looks for, in the spirit of USF
(Liu et al. 2023, arXiv:2312.07243): unlike the other solvers it is meant for one grid, so it has no
limit and no order beyond consistency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, expm1, isinf, sqrt

from samplers.correctors import in_one
from samplers.exponential import weights
from samplers.solvers import Move, Stage


@dataclass(frozen=True)
class Choice:
    """How the step that starts at noise level `sigma` is taken.

    order      values of D that the exact exponential weights pass through, 1 to 3
    eta        relaxation noise, as in `solvers.exponential`; 0 is deterministic
    history    share of the extrapolation that is taken, 0 to 1
    corrector  take the step again once D at its end is known, at no cost; for eta = 0 only
    weight     of guidance at this evaluation, relative to the mean over the steps
    gains      weights on D[i], D[i−1], …, instead of those that order and history give; they sum
               to 1 − e^{−h(1+η)}
    """

    sigma: float
    order: int = 2
    eta: float = 0.0
    history: float = 1.0
    corrector: bool = False
    weight: float = 1.0
    gains: tuple[float, ...] | None = None


def scheduled(lam: Sequence[float], choices: Sequence[Choice]) -> Iterator[Stage]:
    """Take each of the n steps of `lam` (n + 1 values) as its choice says."""
    for i, choice in enumerate(choices):
        back = Move(lam[i], 1.0)
        if i and choices[i - 1].corrector:
            back = _corrected(lam, i - 1, choices[i - 1].order)
        ahead = _predicted(lam, i, choice)
        if choice.corrector:  # the carry waits until D at the step's end is known
            yield Stage(lam[i], back, ahead)
        else:
            yield Stage(lam[i], in_one(back, ahead))


def _predicted(lam: Sequence[float], i: int, choice: Choice) -> Move:
    start, end = lam[i : i + 2]
    if isinf(end):
        return Move(end, 0.0, choice.gains or (1.0,))
    rate, h = 1 + choice.eta, end - start
    gains = choice.gains
    if gains is None:
        nodes = [lam[i - j] for j in range(min(choice.order, i + 1))]
        past = [choice.history * gain for gain in weights(nodes, start, end, rate)[1:]]
        gains = (-expm1(-rate * h) - sum(past), *past)
    noise = exp(-end) * sqrt(-expm1(-2 * choice.eta * h))
    return Move(end, exp(-rate * h), gains, noise)


def _corrected(lam: Sequence[float], i: int, order: int) -> Move:
    """Step i again, through `order` + 1 values of D, the one at its end among them (UniC)."""
    start, end = lam[i : i + 2]
    nodes = [end, *(lam[i - j] for j in range(min(order, i + 1)))]
    return Move(end, exp(start - end), tuple(weights(nodes, start, end)))
