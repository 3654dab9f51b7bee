"""Denoisers in closed form, the networks made of them, and exact solutions to compare with.

A *law* is a distribution of clean data; its denoiser D(x, σ) = E[x0 | x0 + σ·z = x] is exact. All
in float64 numpy; `network` wraps two laws, unconditional and conditional, as an ε-network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import torch
from scipy.integrate import solve_ivp

from samplers import Plan, sample
from samplers.loop import Model

HIGH, LOW = 10.0, 0.05  # noise levels between which orders are measured


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians on the line."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    widths: tuple[float, ...]

    def _logits(self, x: np.ndarray, sigma: float) -> list[np.ndarray]:
        parts = zip(self.weights, self.means, self.widths, strict=True)
        return [
            log(w) - (x - m) ** 2 / (2 * (s * s + sigma**2)) - 0.5 * log(s * s + sigma**2)
            for w, m, s in parts
        ]

    def denoised(self, x: np.ndarray, sigma: float) -> np.ndarray:
        logits = self._logits(x, sigma)
        top = np.max(logits, axis=0)
        shares = [np.exp(logit - top) for logit in logits]
        total, out = sum(shares), 0.0
        for share, m, s in zip(shares, self.means, self.widths, strict=True):
            out = out + share / total * (s * s * x + sigma**2 * m) / (s * s + sigma**2)
        return out

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(self._logits(x, 0.0), axis=0) - 0.5 * log(2 * np.pi)


GAUSSIAN = Mixture((1.0,), (1.5,), (0.7,))
UNCOND = Mixture((0.4, 0.35, 0.25), (-2.0, 0.5, 2.5), (0.5, 0.3, 0.6))
COND = Mixture((0.1, 0.3, 0.6), (-2.0, 0.5, 2.5), (0.5, 0.3, 0.6))


def gaussian_flow(law: Mixture, x: np.ndarray, start: float, end: float) -> np.ndarray:
    """Carry x from noise level `start` to `end` along the exact probability flow of a Gaussian."""
    (mean,), (width,) = law.means, law.widths
    return mean + (x - mean) * sqrt((width**2 + end**2) / (width**2 + start**2))


def guided_flow(
    uncond: Mixture,
    cond: Mixture,
    rate: Callable[[float], float],
    x: np.ndarray,
    start: float = HIGH,
    end: float = LOW,
    kinks: Sequence[float] = (),
) -> np.ndarray:
    """Solve dx/dλ = D_u + ω(σ)(D_c − D_u) − x by DOP853 at a tolerance of 1e-12.

    kinks  decreasing noise levels where ω(σ) is not smooth: the integration restarts there
    """

    def slope(lam: float, x: np.ndarray) -> np.ndarray:
        sigma = exp(-lam)
        free = uncond.denoised(x, sigma)
        return free + rate(sigma) * (cond.denoised(x, sigma) - free) - x

    stops = [-log(s) for s in (start, *(k for k in kinks if end < k < start), end)]
    for span in pairwise(stops):
        first = span[1] - span[0] if kinks else None
        x = solve_ivp(slope, span, x, "DOP853", rtol=1e-12, atol=1e-12, first_step=first).y[:, -1]
    return x


def uniform_levels(n: int, start: float = HIGH, end: float = LOW) -> list[float]:
    """n + 1 noise levels, evenly spaced in λ, ending above 0: a last step to 0 hides the order."""
    return [start * (end / start) ** (i / n) for i in range(n + 1)]


def network(uncond: Mixture, cond: Mixture, plan: Plan) -> Model:
    """Return the ε-network of two laws for one run of a plan.

    The noise level comes from the plan's rows, in the order of the calls, since some recipes tell
    the network a rounded timestep.
    """
    rows = iter(plan)

    def model(z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = next(rows).sigma
        x = z.numpy() * sqrt(1 + sigma**2)
        pair = (torch.from_numpy((x - law.denoised(x, sigma)) / sigma) for law in (uncond, cond))
        return tuple(pair)

    return model


def end_state(plan: Plan, uncond: Mixture, cond: Mixture, x: np.ndarray) -> np.ndarray:
    """Run a deterministic plan on the state x (n,) in VE units and return the final one."""
    z = torch.from_numpy(x / plan.start).reshape(-1, 1, 1, 1)
    out = sample(network(uncond, cond, plan), z, plan)
    return out.flatten().numpy() * sqrt(1 + plan.end**2)


def starts(n: int = 8, sigma: float = HIGH) -> np.ndarray:
    """n spread-out states at a noise level: quantiles of N(0, 1 + σ²)."""
    normal = torch.distributions.Normal(0.0, sqrt(1 + sigma**2))
    return normal.icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n).numpy()


def slope(errors: dict[int, float]) -> float:
    """Return the order that the errors at the last two numbers of evaluations show."""
    (n, error), (m, finer) = list(errors.items())[-2:]
    return log(error / finer) / log(m / n)
