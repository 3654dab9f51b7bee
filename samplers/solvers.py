"""Solvers: one function per method, from a grid of half log-SNRs to steps on the data prediction.

A solver knows nothing of guidance. It says how the next state follows from the last one and from
the most recent clean estimates D: x' = a·x + Σ_j c_j·D[i−j] + s·noise, in variance-exploding units,
for dx/dλ = D(x, λ) − x. Guidance (guidance.py) later splits each c_j into weights on the
unconditional estimate and on Δ. Every `lam` holds n + 1 increasing values; the last may be +inf
(σ = 0), which takes a first-order step, exact for whatever D the network returns there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, expm1, inf, isinf, log, sqrt

from samplers.exponential import weights
from samplers.schedule import ROUNDING


@dataclass(frozen=True)
class Move:
    """x' = decay·x + Σ_j gains[j]·D[i−j] + noise·z, arriving at half log-SNR `to`.

    `kicks` are the weights on λ_cfg·Δ[i−j] that CFG++ adds, where they are not the usual: 1 on the
    latest Δ of a carry that moves, none on a probe.
    """

    to: float
    decay: float
    gains: tuple[float, ...] = ()
    noise: float = 0.0
    kicks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What one network evaluation leads to: the carried state moves, then a probe may look ahead.

    `at` is the half log-SNR of the evaluation; without a probe the next one is made at the carry.
    """

    at: float
    carry: Move
    probe: Move | None = None


def _stay(lam: float) -> Move:
    return Move(lam, 1.0)


def _first_order(start: float, end: float) -> Move:
    return Move(end, exp(start - end), (-expm1(start - end),))


def _split(start: float, end: float, eta: float) -> tuple[float, float]:
    """Return σ_down/σ and σ_up of an ancestral step (k-diffusion's `get_ancestral_step`)."""
    sigma, to = exp(-start), exp(-end)
    up = min(to, eta * to * sqrt(1 - (to / sigma) ** 2))
    return sqrt(to * to - up * up) / sigma, up


def euler(lam: Sequence[float]) -> Iterator[Stage]:
    """DDIM, Euler's method in VE units (Song et al. 2020, arXiv:2010.02502, eq. 12). Order 1."""
    for start, end in itertools.pairwise(lam):
        yield Stage(start, _first_order(start, end))


def ancestral(lam: Sequence[float], eta: float = 1.0) -> Iterator[Stage]:
    """Euler ancestral: step down to σ_down, then add σ_up of noise, σ_down² + σ_up² = σ'²."""
    for start, end in itertools.pairwise(lam):
        decay, up = _split(start, end, eta)
        yield Stage(start, Move(end, decay, (1 - decay,), up))


def midpoint_gains(lam: Sequence[float], i: int) -> tuple[float, ...]:
    """Return the weights on D_i, D_{i−1} of a step from λ_i that takes D at its midpoint."""
    start, end = lam[i : i + 2]
    gain = -expm1(start - end)
    if i == 0 or isinf(end):
        return (gain,)
    half = (end - start) / (2 * (start - lam[i - 1]))  # 1/(2r), r = h_prev/h
    return gain * (1 + half), -gain * half


def dpmpp_2m(lam: Sequence[float]) -> Iterator[Stage]:
    """DPM-Solver++(2M): D extrapolated to the step's midpoint (arXiv:2211.01095, Algorithm 2).

    Order 2. Not DPM-Solver-2M, which extrapolates ε; not RES, whose weight is the exact φ_2.
    """
    for i, (start, end) in enumerate(itertools.pairwise(lam)):
        yield Stage(start, Move(end, exp(start - end), midpoint_gains(lam, i)))


def dpmpp_2s(lam: Sequence[float]) -> Iterator[Stage]:
    """DPM-Solver++(2S): every step spends two evaluations (arXiv:2211.01095, Algorithm 1).

    The grid's levels are taken in pairs, so n evaluations visit n levels: a step from λ_i to
    λ_{i+2} with its midpoint at λ_{i+1}, and first-order steps for what is left before σ = 0
    (diffusers' singlestep solver does the same). Order 2.
    """
    i, n = 0, len(lam) - 1
    while i < n:
        if i + 2 > n or isinf(lam[i + 2]):
            yield Stage(lam[i], _first_order(lam[i], lam[i + 1]))
            i += 1
            continue
        start, middle, end = lam[i : i + 3]
        half = (end - start) / (2 * (middle - start))  # 1/(2r)
        full = _first_order(start, end)
        (gain,) = full.gains
        yield Stage(start, _stay(start), _first_order(start, middle))
        yield Stage(middle, Move(end, full.decay, (gain * half, gain * (1 - half))))
        i += 2


def ancestral_2s(lam: Sequence[float], nfe: int, eta: float = 1.0) -> Iterator[Stage]:
    """DPM-Solver++(2S) ancestral: 2S to σ_down, then noise σ_up (k-diffusion's
    `sample_dpmpp_2s_ancestral`).

    The midpoint is not a level of the grid: it halves the step to σ_down in λ. The last step is
    first order, so N steps take 2N − 1 evaluations; with an even `nfe` the first one is too, where
    D hardly depends on x. `lam` has ⌊nfe/2⌋ + 2 values. Order 2 up to the noise; η is at most 1.
    """
    if eta > 1:
        raise ValueError(f"eta is {eta}; a 2S ancestral sampler takes 0 to 1, else sigma_down is 0")
    steps = len(lam) - 1
    single = {steps - 1} if nfe % 2 else {0, steps - 1}
    for i, (start, end) in enumerate(itertools.pairwise(lam)):
        decay, up = _split(start, end, eta)
        full = Move(end, decay, (1 - decay,), up)
        if i in single:
            yield Stage(start, full)
        else:
            middle = start - log(decay) / 2
            yield Stage(start, _stay(start), _first_order(start, middle))
            yield Stage(middle, full)


def dpmpp_3m(lam: Sequence[float], eta: float = 0.0) -> Iterator[Stage]:
    """DPM-Solver++(3M), as published and as in k-diffusion's `sample_dpmpp_3m_sde`.

    Its second difference lacks a factor 2, so with η = 0 it is of order 2, not 3 (`exponential`
    with three nodes has order 3). η > 0 integrates the reverse SDE.
    """
    for i, (start, end) in enumerate(itertools.pairwise(lam)):
        if isinf(end):
            yield Stage(start, _first_order(start, end))
            continue
        h = end - start
        g = h * (1 + eta)
        gain = -expm1(-g)
        phi2 = 1 - gain / g
        phi3 = phi2 / g - 0.5
        if i == 0:
            gains = (gain,)
        elif i == 1:
            r0 = (start - lam[i - 1]) / h
            gains = (gain + phi2 / r0, -phi2 / r0)
        else:
            r0, r1 = (start - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            # d1 = d10 + (d10 − d11)·r0/(r0 + r1), d2 = (d10 − d11)/(r0 + r1), x += φ2·d1 − φ3·d2
            w10 = phi2 * (1 + r0 / (r0 + r1)) - phi3 / (r0 + r1)
            w11 = -phi2 * r0 / (r0 + r1) + phi3 / (r0 + r1)
            gains = (gain + w10 / r0, -w10 / r0 + w11 / r1, -w11 / r1)
        yield Stage(start, Move(end, exp(-g), gains, exp(-end) * sqrt(-expm1(-2 * eta * h))))


def _third_order_start(lam: Sequence[float]) -> Iterator[Stage]:
    """Two steps that cost third order nothing: the first is taken again once D at its end is known.

    A first step by Euler's method alone leaves an error O(h²), which no later order removes.
    """
    first, second, third = lam[:3]
    yield Stage(first, _stay(first), _first_order(first, second))
    decay = exp(second - third)
    again, onward = (weights([second, first], *step) for step in ((first, second), (second, third)))
    gains = tuple(decay * a + b for a, b in zip(again, onward, strict=True))
    yield Stage(second, Move(third, exp(first - third), gains))


def exponential(
    lam: Sequence[float],
    order: int = 2,
    eta: float = 0.0,
    window: tuple[float, float] = (0.0, inf),
    history: float = 1.0,
) -> Iterator[Stage]:
    """Exponential Adams–Bashforth with exact weights: D is a polynomial through the last values.

    dx/dλ = (1 + η)(D − x) plus noise σ'·√(1 − e^{−2ηh}); η acts on steps that start inside the σ
    window. Order 2 is RES-2M (Zhang et al. 2023, arXiv:2308.02157), after one first-order step.

    history  how much of the extrapolation noisy steps take: 1 all of it, 0 none. Along the exact
             reverse SDE (η = 1) D = E[x0 | x] is a martingale, whose past says nothing of its
             future beyond its present value; only guidance and coarse steps leave a trend.
    """
    restarts = order > 2 and not eta and len(lam) > 2 and not isinf(lam[2])
    if restarts:
        yield from _third_order_start(lam)
    for i in range(2 if restarts else 0, len(lam) - 1):
        start, end = lam[i : i + 2]
        if isinf(end):
            yield Stage(start, _first_order(start, end))
            continue
        inside = window[0] * (1 - ROUNDING) <= exp(-start) <= window[1] * (1 + ROUNDING)
        noisy = eta if inside else 0.0
        nodes = [lam[i - j] for j in range(min(order, i + 1))]
        gains = tuple(weights(nodes, start, end, 1 + noisy))
        if noisy and history != 1:
            (present,) = weights(nodes[:1], start, end, 1 + noisy)
            gains = (present + history * (gains[0] - present), *(history * g for g in gains[1:]))
        h = end - start
        noise = exp(-end) * sqrt(-expm1(-2 * noisy * h))
        yield Stage(start, Move(end, exp(-h * (1 + noisy)), gains, noise))


def res_2m_shifted(lam: Sequence[float]) -> Iterator[Stage]:
    """RES-2M on D_u as ComfyUI guides it: λ_cfg·Δ is added *before* the step, which shrinks it.

    `res_multistep_cfg_pp` (ComfyUI): the kick arrives with the decay e^{−h} of the state; its first
    and last step are plain CFG++ ones. Of order 2 on D_u alone.
    """
    for i, (start, end) in enumerate(itertools.pairwise(lam)):
        move = _first_order(start, end)
        if i and not isinf(end):
            gains = tuple(weights([start, lam[i - 1]], start, end))
            move = Move(end, move.decay, gains, kicks=(move.decay, 0.0))
        yield Stage(start, move)
