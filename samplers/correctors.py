"""Solvers that correct each step by the evaluation that follows it, at no further evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import exp, expm1, isinf, log

from samplers.exponential import weights
from samplers.solvers import Move, Stage, midpoint_gains

Weights = Callable[[int], Sequence[float]]  # step i → gains of D_i, D_{i−1}, …


def _predict_and_correct(
    lam: Sequence[float], predict: Weights, correct: Weights
) -> Iterator[Stage]:
    """Every evaluation first corrects the step that led to it, then predicts the next one.

    The carry waits one level behind, at the corrected state; `correct(i)` takes it from λ_{i−1} to
    λ_i, where D_i is known by then. The last prediction folds into the carry.
    """
    n = len(lam) - 1
    for i, (at, end) in enumerate(itertools.pairwise(lam)):
        ahead = Move(end, exp(at - end), tuple(predict(i)))
        behind = Move(at, exp(lam[i - 1] - at), tuple(correct(i))) if i else Move(at, 1.0)
        if i < n - 1:
            yield Stage(at, behind, ahead)
        else:
            yield Stage(at, in_one(behind, ahead))


def in_one(first: Move, second: Move) -> Move:
    """The move that does what two do one after the other, both from the same evaluations.

    Only the second may add noise.
    """
    count = max(len(first.gains), len(second.gains))
    a, b = ((*move.gains, *[0.0] * (count - len(move.gains))) for move in (first, second))
    gains = tuple(second.decay * c + p for c, p in zip(a, b, strict=True))
    return Move(second.to, first.decay * second.decay, gains, second.noise)


def corrected(lam: Sequence[float], order: int = 2) -> Iterator[Stage]:
    """Exponential predictor with a free corrector, both with exact weights.

    Predicts with `order` nodes and corrects with one more, the new value among them. Order + 1 in
    all, but 3 at most, which is what the first, two-node correction leaves.
    """

    def nodes(i: int, count: int) -> list[float]:
        return [lam[i - j] for j in range(min(count, i + 1))]

    return _predict_and_correct(
        lam,
        lambda i: weights(nodes(i, order), lam[i], lam[i + 1]),
        lambda i: weights(nodes(i, order + 1), lam[i - 1], lam[i]),
    )


def corrected_sde(predicted: Iterable[Stage]) -> Iterator[Stage]:
    """A noisy one-state solver whose every step is taken again once D at its end is known.

    Within a step D moves with the noise, D(λ) − D_i ≈ J·√(2η) ∫ σ dW, and what the past tells of
    it is nothing. The evaluation at the end has seen that noise: a line through D_i and D_{i+1}
    gives the step the covariance of D and noise up to O(h³), which makes the whole of weak order 2
    whatever the prediction extrapolates (SA-Solver, arXiv:2309.05019, corrects the same way). The
    prediction's noise and decay are the correction's too, so their difference is one of weights on
    D alone; it is made up for in the step that follows, and no state waits.
    """
    behind = None
    for stage in predicted:
        ahead = stage.carry
        if isinf(ahead.to):  # it returns D itself, and the state that led there is gone
            yield stage
            return
        yield Stage(stage.at, in_one(behind, ahead) if behind else ahead)
        rate = -log(ahead.decay) / (ahead.to - stage.at)
        line = weights([ahead.to, stage.at], stage.at, ahead.to, rate)
        pairs = itertools.zip_longest(line, (0.0, *ahead.gains), fillvalue=0.0)
        behind = Move(ahead.to, 1.0, tuple(known - guessed for known, guessed in pairs))


def unipc(lam: Sequence[float]) -> Iterator[Stage]:
    """UniPC of order 2 with B(h) = e^h − 1 ("bh2"), data prediction (arXiv:2302.04867).

    Its predictor is DPM-Solver++(2M); its corrector is exact through three nodes and the trapezium
    rule through the first two (the paper's ρ = 1/2). The corrector makes it order 3 in all.
    """

    def correct(i: int) -> Sequence[float]:
        if i > 1:
            return weights([lam[i], lam[i - 1], lam[i - 2]], lam[i - 1], lam[i])
        return [-expm1(lam[0] - lam[1]) / 2] * 2

    return _predict_and_correct(lam, lambda i: midpoint_gains(lam, i), correct)
