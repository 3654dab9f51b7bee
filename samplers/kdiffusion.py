"""k-diffusion's vocabulary, for solvers written against CFGpp. Our own samplers do not need it."""

from __future__ import annotations

from math import sqrt

import torch


def append_zero(x: torch.Tensor) -> torch.Tensor:
    """Append a 0 to a 1-D tensor of noise levels."""
    return torch.cat([x, x.new_zeros([1])])


def get_ancestral_step(sigma_from: float, sigma_to: float, eta: float = 1.0) -> tuple[float, float]:
    """Return (σ_down, σ_up) with σ_down² + σ_up² = σ_to²; η = 0 adds no noise."""
    if not eta:
        return sigma_to, 0.0
    up = eta * sigma_to * sqrt(1 - (sigma_to / sigma_from) ** 2)
    up = min(sigma_to, up)
    return sqrt(sigma_to**2 - up**2), up


def get_sigmas_karras(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: str = "cpu"
) -> torch.Tensor:
    """Return CFGpp's Karras grid, n levels and a 0: as there, the last one is short of σ_min."""
    ramp = torch.linspace(0, 1, n + 1, dtype=torch.float64)[:-1]
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho).float().to(device)
