"""Guidance: how strongly Δ = D_c − D_u enters. Knows no solver.

Two kinds exist. A *rate* ω(σ) belongs to the equation: the sampler integrates D_u + ω(σ)·Δ, which
has a limit as the grid is refined. A *kick* adds λ_cfg·Δ once per step, as CFG++ is published; it
has no limit, and its strength in CFG units, λ_cfg/(1 − σ'/σ), grows with the number of steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from samplers.errors import finite
from samplers.schedule import ROUNDING, NoiseSchedule

logger = logging.getLogger(__name__)
Rate = Callable[[float], float]  # σ → ω, in CFG units: 1 is the conditional model alone

LARGEST_LAMBDA = 2.0  # a larger cfg_guidance can only be meant in CFG units
REFERENCE_STEPS = 50  # CFG++ pairs its λ_cfg with CFG's ω at 50 DDIM steps (arXiv:2406.08070)


def constant(omega: float) -> Rate:
    """Classifier-free guidance: D_u + ω·Δ at every noise level (arXiv:2207.12598)."""
    return lambda sigma: omega


def bell(schedule: NoiseSchedule, scale: float) -> Rate:
    """CFG++'s weight as a function of noise: ω(σ) = λ_cfg/(1 − σ_ref/σ), free of the step count.

    σ_ref is where the paper's reference, DDIM with 50 leading steps, arrives from σ: T/50 timesteps
    further down. Below the first training timestep it falls linearly to 0 at t = −T/50, so that the
    last step has ω close to λ_cfg as in the paper (1.04·λ_cfg at t = 1). Over the noise levels
    this is bell-shaped: with λ_cfg = 0.6 it runs from 5.3 over 9.5 to 0.6.
    """
    stride = schedule.num_timesteps / REFERENCE_STEPS

    def omega(sigma: float) -> float:
        t = schedule.timestep(sigma)
        arrival = schedule.sigma(t - stride) if t >= stride else schedule.sigma_min * t / stride
        return scale / (1 - arrival / sigma)

    return omega


def mean_bell(schedule: NoiseSchedule) -> float:
    """Return the mean of `bell` at λ_cfg = 1 over its own 50 steps: 12.0 for Stable Diffusion.

    They are timesteps 1, 21, … of 1,000, and the same shares of a schedule of another length.
    """
    weight, total = bell(schedule, 1.0), schedule.num_timesteps
    times = [min((20 * i + 1) * total / 1000, total - 1) for i in range(REFERENCE_STEPS)]
    return sum(weight(schedule.sigma(t)) for t in times) / len(times)


def rising(schedule: NoiseSchedule, omega: float) -> Rate:
    """Linear in time from 0 at σ_max to 2ω at t = 0, so that its mean over t is ω (2404.13040)."""
    last = schedule.num_timesteps - 1
    return lambda sigma: 2 * omega * (1 - schedule.timestep(sigma) / last)


def late(schedule: NoiseSchedule, omega: float) -> Rate:
    """Half of ω − 1 at every noise level, the other half late, as the cube of the time gone.

    ω(t) = 1 + (ω − 1)·(1/2 + 2·(1 − t/T)³): from (ω + 1)/2 at σ_max to 1 + 5/2·(ω − 1) at t = 0,
    with mean ω over t. At high noise guidance chooses among compositions and makes them alike; at
    low noise it makes the one at hand fit the caption (docs/ablations.md). Unlike `rising` it is
    never below the conditional model's own 1, unless ω is: then it is constant.
    """
    extra, last = max(0.0, omega - 1), schedule.num_timesteps - 1
    return lambda sigma: omega - extra / 2 + 2 * extra * (1 - schedule.timestep(sigma) / last) ** 3


def inside(interval: tuple[float, float], sigma: float) -> bool:
    """Guide only for σ in (low, high]; outside, the conditional model alone (arXiv:2404.07724).

    A level that is an edge up to rounding is that edge: levels come back from −ln σ.
    """
    low, high = (edge * (1 + ROUNDING) for edge in interval)
    return low < sigma <= high


def bounded(omega: float, gain: float, sigma: float, cap: float) -> float:
    """Return ω(σ) of a step, or less: what the step can bear.

    gain   what the step takes of D = D_c + (ω − 1)·Δ, which is 1 − e^{−ρh}
    sigma  where it arrives
    cap    the most that it may add of Δ to the conditional model's own step. For low noise that is
           cap/2·(1 + σ²): of data with variance 1, Δ at σ changes by up to 1/(1 + σ²) of what the
           state has moved, so that with the usual cap = 2 guidance does not reverse Δ by itself.
           Where it does it overshoots, and burns the image (docs/method.md, section 2).
    """
    return min(omega, 1 + cap * min(1, (1 + sigma * sigma) / 2) / gain)


def read_cfg_guidance(value: float) -> dict[str, float]:
    """Read CFGpp's `cfg_guidance` for a CFG++ sampler: {"scale": λ_cfg} or {"omega": ω}.

    Up to 2 it is λ_cfg; a larger value, such as the original's default 7.5, would burn the image as
    λ_cfg and is read in CFG units.
    """
    value = finite("cfg_guidance", value)
    if value <= LARGEST_LAMBDA:
        return {"scale": value}
    logger.info("cfg_guidance %g > %g is read in CFG units (omega)", value, LARGEST_LAMBDA)
    return {"omega": value}
