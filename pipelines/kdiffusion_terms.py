"""The k-diffusion vocabulary that CFGpp's solver classes offer, on variance-exploding states."""

from __future__ import annotations

import torch

from samplers.kdiffusion import get_ancestral_step

EpsilonPair = tuple[torch.Tensor, torch.Tensor]  # unconditional, conditional


class KDiffusionTerms:
    """States x = z/α at noise level σ; `log_sigmas` is the model's table of ln σ, (T,)."""

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
        """Return (σ_down, σ_up); see `samplers.kdiffusion.get_ancestral_step`."""
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
        self, x: torch.Tensor, sigma: torch.Tensor, noise: EpsilonPair, cfg_guidance: float
    ) -> EpsilonPair:
        """Return (guided, unconditional) clean estimates of a VE state at noise level σ."""
        noise_uc, noise_c = noise
        guided = noise_uc + cfg_guidance * (noise_c - noise_uc)
        return (
            self.calculate_denoised(x, guided, sigma),
            self.calculate_denoised(x, noise_uc, sigma),
        )
