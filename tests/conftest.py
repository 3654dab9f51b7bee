"""The schedule of Stable Diffusion, for every test."""

from __future__ import annotations

import pytest
import torch

from samplers import NoiseSchedule


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """Scaled-linear betas from 0.00085 to 0.012 over 1000 timesteps, in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule(torch.cumprod(1 - betas, 0).tolist())
