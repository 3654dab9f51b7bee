"""k-diffusion's vocabulary, for solvers written against CFGpp; `samplers` does not need it."""

from __future__ import annotations

from math import sqrt

import torch

from samplers.loop import Pair


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
    sigma_min, sigma_max = float(sigma_min), float(sigma_max)  # CFGpp passes tensors
    ramp = torch.linspace(0, 1, n + 1, dtype=torch.float64)[:-1]
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho).float().to(device)


class KDiffusionTerms:
    """What CFGpp's solver classes offer, on variance-exploding states x = z/α at noise level σ.

    log_sigmas  the model's table of ln σ, (T,)
    """

    log_sigmas: torch.Tensor
    device: torch.device

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the whole timestep nearest in ln σ."""
        distance = sigma.log().to(self.device).reshape(1, -1) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape).to(sigma.device)

    def to_d(self, x: torch.Tensor, sigma: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        """Return ε = dx/dσ of the probability-flow ODE in VE units."""
        return (x - denoised) / sigma

    def get_ancestral_step(
        self, sigma_from: float, sigma_to: float, eta: float = 1.0
    ) -> tuple[float, float]:
        """Return (σ_down, σ_up); see the function of that name."""
        return get_ancestral_step(sigma_from, sigma_to, eta)

    def calculate_input(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the network's VP input α·x of a VE state."""
        return x / (sigma**2 + 1) ** 0.5

    def calculate_denoised(
        self, x: torch.Tensor, model_pred: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Return the clean estimate x − σ·ε of a VE state."""
        return x - model_pred * sigma

    def _denoised(
        self, x: torch.Tensor, sigma: torch.Tensor, noise: Pair, cfg_guidance: float
    ) -> Pair:
        """Return (guided, unconditional) clean estimates of a VE state at noise level σ."""
        noise_uc, noise_c = noise
        guided = noise_uc + cfg_guidance * (noise_c - noise_uc)
        return (
            self.calculate_denoised(x, guided, sigma),
            self.calculate_denoised(x, noise_uc, sigma),
        )
