"""The noise schedule: the only file that knows ᾱ.

In variance-exploding units x = z/α a noise level is one number, σ = √((1 − ᾱ)/ᾱ); λ = −ln σ is half
the log-SNR. Between the integer timesteps of training, ln σ is linear in t (as in k-diffusion).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from math import exp, isfinite, log, sqrt
from typing import Any

ROUNDING = 1e-9  # relative, of a noise level that went through its logarithm
ZERO_SNR = 2.0**-24  # ᾱ that stands for no signal at all


def alpha_of(sigma: float) -> float:
    """Return α, the signal factor of z = α·x at noise level σ: 1/√(1 + σ²)."""
    return 1 / sqrt(1 + sigma * sigma)


class NoiseSchedule:
    """Map timesteps to noise levels and back, continuously, in float64.

    alphas_cumprod  ᾱ_0 … ᾱ_{T−1}: 1-D array-like in (0, 1), strictly decreasing
    family          whose published grids fit: "sd15"; set it to "sdxl" for SDXL's
    """

    family = "sd15"

    def __init__(self, alphas_cumprod: Iterable[float]):
        table = [float(value) for value in alphas_cumprod]
        if len(table) < 2:
            raise ValueError(
                f"alphas_cumprod has {len(table)} entries; a schedule needs at least 2"
            )
        for t, value in enumerate(table):
            if not (isfinite(value) and 0 < value < 1):
                raise ValueError(
                    f"alphas_cumprod[{t}] is {value}; every entry must lie inside (0, 1) "
                    "(drop a prepended 1.0; clip a zero terminal SNR to a small positive value)"
                )
            if t and value >= table[t - 1]:
                raise ValueError(
                    f"alphas_cumprod[{t}] = {value} does not decrease; pass the cumulative product "
                    "in training order, not betas and not reversed"
                )
        self.alphas_cumprod = tuple(table)
        self._log_sigmas = [0.5 * (log(1 - a) - log(a)) for a in table]

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """Read the table of any diffusers scheduler that has `alphas_cumprod`.

        A 1.0 prepended to the table, as CFGpp does, is dropped. A last entry of 0, of a model with
        zero terminal SNR (arXiv:2305.08891), counts as 2⁻²⁴, as in diffusers' Euler: σ_max = 4096;
        as half of the entry before where that is smaller.
        Raises ValueError for a scheduler without a table.
        """
        found = getattr(scheduler, "alphas_cumprod", None)
        if found is None:
            raise ValueError(
                f"{type(scheduler).__name__} has no alphas_cumprod; schedulers with a table of "
                "betas are sampled here, not those of EDM or flow matching"
            )
        table = [float(value) for value in found]
        if len(table) > 1 and table[-1] == 0:
            table[-1] = min(ZERO_SNR, table[-2] / 2)
        return cls(table[1:] if table and table[0] >= 1 else table)

    @classmethod
    def stable_diffusion(cls) -> NoiseSchedule:
        """SD's own: betas from 0.00085 to 0.012, linear in their roots, over 1,000 timesteps."""
        low, high = 0.00085**0.5, 0.012**0.5
        product, table = 1.0, []
        for t in range(1000):
            product *= 1 - (low + t / 999 * (high - low)) ** 2
            table.append(product)
        return cls(table)

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def sigma_min(self) -> float:
        return self.sigma(0)

    @property
    def sigma_max(self) -> float:
        return self.sigma(self.num_timesteps - 1)

    def log_sigma(self, t: float) -> float:
        """Return ln σ at a timestep in [0, T − 1]; fractions are interpolated."""
        if not 0 <= t <= self.num_timesteps - 1:
            raise ValueError(f"timestep {t} lies outside [0, {self.num_timesteps - 1}]")
        low = min(int(t), self.num_timesteps - 2)
        left, right = self._log_sigmas[low : low + 2]
        return left + (t - low) * (right - left)

    def sigma(self, t: float) -> float:
        """Return the noise level at a timestep in [0, T − 1]."""
        if 0 <= t < self.num_timesteps and t == int(t):  # exact at the training timesteps
            a = self.alphas_cumprod[int(t)]
            return sqrt((1 - a) / a)
        return exp(self.log_sigma(t))

    def timestep(self, sigma: float) -> float:
        """Return the timestep in [0, T − 1] of a noise level, clamped to the schedule's range.

        Levels of integer timesteps give exactly those integers.
        """
        if not (isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma is {sigma}; a noise level must be positive and finite")
        target = log(sigma)
        right = bisect_right(self._log_sigmas, target)
        if right == 0:
            return 0.0
        if right == self.num_timesteps:
            return float(self.num_timesteps - 1)
        low, high = self._log_sigmas[right - 1], self._log_sigmas[right]
        t = right - 1 + (target - low) / (high - low)
        return float(round(t)) if abs(t - round(t)) < 1e-6 else t


def sdxl_family(latent_size: int) -> str:
    """Return the `family` of a model of SDXL's classes, by the width of its latents.

    SDXL's tables were found at 1,024 pixels, latents of 128; for half of that and less those of
    SD 1.5, 64, are the nearer ones.
    """
    return "sdxl" if latent_size > 90 else "sd15"
