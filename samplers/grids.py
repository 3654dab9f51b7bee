"""Grids: which noise levels a sampler visits.

A grid is a function (schedule, n) → n + 1 strictly decreasing noise levels. The network is
evaluated at the first n of them; the last one, normally 0, is where the sample ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import exp, isfinite, log

from samplers.errors import choose
from samplers.schedule import NoiseSchedule

Grid = Callable[[NoiseSchedule, int], list[float]]


def _leading_stride(schedule: NoiseSchedule, n: int) -> int:
    skip = schedule.num_timesteps // n
    if (n - 1) * skip + 1 >= schedule.num_timesteps:
        raise ValueError(
            f"nfe is {n}; the leading grid has no {n} of {schedule.num_timesteps} timesteps: use "
            "fewer, or another grid such as 'trailing'"
        )
    return skip


def leading(schedule: NoiseSchedule, n: int) -> list[float]:
    """Timesteps i·⌊T/n⌋ + 1, SD's own spacing (diffusers "leading", steps_offset 1)."""
    skip = _leading_stride(schedule, n)
    return [schedule.sigma(i * skip + 1) for i in reversed(range(n))] + [0.0]


def leading_shifted(schedule: NoiseSchedule, n: int) -> list[float]:
    """Timesteps i·⌊T/n⌋: the noise levels that CFGpp's shifted ᾱ table pairs with `leading`."""
    skip = _leading_stride(schedule, n)
    return [schedule.sigma(i * skip) for i in reversed(range(n))] + [0.0]


def trailing(schedule: NoiseSchedule, n: int) -> list[float]:
    """Timesteps T − i·T/n − 1, rounded: starts at T − 1 (Lin et al. 2023, arXiv:2305.08891)."""
    total = schedule.num_timesteps
    return [schedule.sigma(round(total - i * total / n) - 1) for i in range(n)] + [0.0]


def linspace(schedule: NoiseSchedule, n: int) -> list[float]:
    """Evenly spaced from timestep T − 1 to 0 inclusive (diffusers "linspace" of Euler)."""
    last = schedule.num_timesteps - 1
    return [schedule.sigma(last * (1 - i / max(1, n - 1))) for i in range(n)] + [0.0]


def _rho(schedule: NoiseSchedule, points: int, rho: float = 7.0) -> list[float]:
    high, low = schedule.sigma_max ** (1 / rho), schedule.sigma_min ** (1 / rho)
    return [(high + i / max(1, points - 1) * (low - high)) ** rho for i in range(points)]


def karras(schedule: NoiseSchedule, n: int) -> list[float]:
    """Evenly spaced in σ^(1/7) from σ_max to σ_min, then 0 (Karras et al. 2022, eq. 5)."""
    return [*_rho(schedule, n), 0.0]


def karras_cfgpp(schedule: NoiseSchedule, n: int) -> list[float]:
    """CFGpp's Karras grid: n + 1 points of which the last, σ_min, is replaced by 0."""
    return [*_rho(schedule, n + 1)[:-1], 0.0]


def karras_unfinished(schedule: NoiseSchedule, n: int) -> list[float]:
    """Karras levels that end at σ_min: CFGpp's SDXL 2M never takes the step to 0."""
    return _rho(schedule, n + 1)


def uniform(schedule: NoiseSchedule, n: int) -> list[float]:
    """Evenly spaced in λ = −ln σ (log-SNR) from σ_max to σ_min, then 0."""
    ratio = log(schedule.sigma_min / schedule.sigma_max)
    levels = [schedule.sigma_max * exp(ratio * i / max(1, n - 1)) for i in range(n)]
    return [*levels, 0.0]


# Sabour et al. 2024 (arXiv:2404.14507): the published ten-step schedules, timesteps of 1,000.
_AYS_SD15 = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)
_AYS_SDXL = (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0)


def _log_linear(knots: Sequence[float], n: int, points: int) -> Iterator[float]:
    """Yield the first n of evenly spaced `points`, linear in ln σ (the AYS authors' rule)."""
    for i in range(n):
        at = i * (len(knots) - 1) / max(1, points - 1)
        low = min(int(at), len(knots) - 2)
        yield knots[low] * (knots[low + 1] / knots[low]) ** (at - low)


def _ays(timesteps: tuple[int, ...], keep: int, doc: str) -> Grid:
    kept, extra = timesteps[:keep], int(keep == len(timesteps))  # σ_min gives way to 0

    def grid(schedule: NoiseSchedule, n: int) -> list[float]:
        last = schedule.num_timesteps - 1
        knots = [schedule.sigma(t * last / 999) for t in kept]
        return [*_log_linear(knots, n, n + extra), 0.0]

    grid.__doc__ = doc
    return grid


ays_sd15 = _ays(_AYS_SD15, 11, "Align Your Steps for SD 1.5, log-linear at any n.")
ays_sdxl = _ays(_AYS_SDXL, 11, "Align Your Steps for SDXL, log-linear at any n.")
ays_sd15_tail = _ays(_AYS_SD15, 10, "AYS for SD 1.5 ending at σ = 0.152, then 0.")
ays_sdxl_tail = _ays(_AYS_SDXL, 10, "AYS for SDXL ending at σ = 0.111, then 0.")


def ays(schedule: NoiseSchedule, n: int) -> list[float]:
    """Align Your Steps by the table of the schedule's family, log-linear at any n."""
    tables = {"sd15": ays_sd15, "sdxl": ays_sdxl}
    return choose("family", schedule.family, tables)(schedule, n)


def blended(first: Grid, second: Grid, weight: float) -> Grid:
    """Mix two grids: ln σ = weight·ln σ_first + (1 − weight)·ln σ_second."""
    if not 0 <= weight <= 1:
        raise ValueError(f"blend weight is {weight}; it must lie in [0, 1]")

    def grid(schedule: NoiseSchedule, n: int) -> list[float]:
        pairs = zip(first(schedule, n)[:-1], second(schedule, n)[:-1], strict=True)
        return [a**weight * b ** (1 - weight) for a, b in pairs] + [0.0]

    grid.__doc__ = f"{weight:g} of one grid and {1 - weight:g} of another, in ln σ."
    return grid


blend = blended(uniform, linspace, 0.6)
blend.__doc__ = "0.6 of uniform and 0.4 of linspace, in ln σ."

GRIDS: dict[str, Grid] = {
    "leading": leading,
    "leading_shifted": leading_shifted,
    "trailing": trailing,
    "linspace": linspace,
    "karras": karras,
    "karras_cfgpp": karras_cfgpp,
    "karras_unfinished": karras_unfinished,
    "uniform": uniform,
    "ays": ays,
    "ays_sd15": ays_sd15,
    "ays_sdxl": ays_sdxl,
    "ays_sd15_tail": ays_sd15_tail,
    "ays_sdxl_tail": ays_sdxl_tail,
    "blend": blend,
}


def make_grid(
    grid: str | Grid | Sequence[float], schedule: NoiseSchedule, n: int
) -> tuple[float, ...]:
    """Return n + 1 checked noise levels from a grid's name, a grid function or the levels.

    Raises ValueError for an unknown name, and for levels that do not number n + 1, do not strictly
    decrease, or leave the schedule's range (only the last may be below σ_min: 0, say).
    """
    if isinstance(grid, str):
        grid = choose("grid", grid, GRIDS)
    if not callable(grid) and not hasattr(grid, "__iter__"):
        raise ValueError(f"grid is {grid!r}; give a name, a function or noise levels")
    levels = [float(s) for s in (grid(schedule, n) if callable(grid) else grid)]
    if len(levels) != n + 1:
        raise ValueError(f"the grid has {len(levels)} noise levels; {n} steps need {n + 1}")
    for i, sigma in enumerate(levels):
        if not (isfinite(sigma) and sigma >= 0) or (i and sigma >= levels[i - 1]):
            raise ValueError(
                f"noise level {i} of the grid is {sigma}; levels must be finite, not negative "
                "and strictly decreasing"
            )
    low, high = schedule.sigma_min * (1 - 1e-6), schedule.sigma_max * (1 + 1e-6)
    if levels[0] > high or levels[-2] < low:
        raise ValueError(
            f"the grid runs from {levels[0]:.4g} to {levels[-2]:.4g}; the network is trained for "
            f"{schedule.sigma_min:.4g} to {schedule.sigma_max:.4g}"
        )
    return tuple(levels)
