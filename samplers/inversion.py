"""Inversion: from a clean latent up to the noise from which a first-order sampler returns to it.

A sampling step x' = x − (σ − σ')·ε(x, σ) is undone by x = x' + (σ − σ')·ε(x, σ): the sampler's own
evaluation at the sampler's own level, but at a state that is not known yet. A kick of CFG++,
x' = D_u + λ_cfg·Δ + (σ'/σ)·(x − D_u), is taken back as it came, which is the paper's
x = D_u + σ·ε_guided (arXiv:2406.08070: the unconditional Tweedie estimate, noised with guided ε).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import exp, expm1

from samplers.solvers import Move, Stage


def inverted_euler(lam: Sequence[float], refined: bool = True) -> Iterator[Stage]:
    """DDIM inversion on the levels of the sampling grid `lam` but its last, upwards. Order 1.

    refined  True: each level is predicted by an explicit step, evaluated there, and reached anew
             with the ε found: one fixed-point iteration of the exact inverse. It costs nothing,
             since the same evaluation predicts the next level.
             False: plain DDIM inversion (arXiv:2010.02502, section 4.3), ε(x', σ') for ε(x, σ).

    n evaluations for n sampling steps. The first is made at the clean latent itself, which stands
    in for the state at the lowest level, since the network knows none below:
    x_1 = x_0 + σ_1·ε(x_0, σ_1).
    """
    up = lam[-2::-1]
    arrive = Move(up[0], 2.0, (-1.0,), kicks=(-1.0,))  # D_0 = x_0 − σ_1·ε
    if not refined:
        yield Stage(up[0], arrive)
        for here, above in itertools.pairwise(up):
            yield Stage(here, _explicit(here, above))
        return
    for i, (here, above) in enumerate(itertools.pairwise(up)):
        predict = _explicit(here, above) if i else _from_clean(here, above)
        yield Stage(here, arrive, predict)
        arrive = _corrected(predict, here, above)
    yield Stage(up[-1], arrive)


def _explicit(here: float, above: float) -> Move:
    ratio = exp(here - above)
    return Move(above, ratio, (1 - ratio,), kicks=(-ratio,))


def _from_clean(here: float, above: float) -> Move:
    """The explicit step after the first, where x_1 − D_0 is twice σ_1·ε."""
    ratio = exp(here - above)
    half = (ratio - 1) / 2
    return Move(above, 1 + half, (-half,), kicks=(half - ratio,))


def _corrected(predict: Move, here: float, above: float) -> Move:
    """x = x' + (1 − σ'/σ)·(x̂ − D(x̂)), with the prediction x̂ written out."""
    keep = -expm1(above - here)
    (gain,), (kick,) = predict.gains, predict.kicks
    return Move(above, 1 + keep * predict.decay, (-keep, keep * gain), kicks=(-1.0, keep * kick))
