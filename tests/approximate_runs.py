"""Short runs on the stand-ins, exact and approximated, for the tests of both."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from latent_diffusion import StableDiffusion
from latent_sdxl import SDXL
from pipelines.approximate import approximated
from pipelines.approximation import parse
from pipelines.latent_model import LatentModel
from samplers import Plan, compile_plan, generators, sample, standard_normal

ROOT = Path(__file__).parents[1]
PROMPTS, SEEDS = ["a red circle", "a blue star on a green background"], [100, 101]


@cache
def standin(name: str = "sd15") -> LatentModel:
    kind, precision = (SDXL, "dtype") if name == "sdxl" else (StableDiffusion, "pipe_dtype")
    return kind(
        solver_config={"num_sampling": 6},
        model_key=str(ROOT / "standins" / name),
        device="cpu",
        **{precision: torch.float32},
    )


def plan_of(model: LatentModel, method: str = "exp2m_cfg++", nfe: int = 6) -> Plan:
    """Without noise: features of one step are far from right for a state that was noised since."""
    options = {"eta": 0.0, "shape": "bell", "grid": "karras"} if method == "exp2m_cfg++" else {}
    return compile_plan(method, model.schedule, nfe=nfe, omega=2.5, **options)


def latents(model: LatentModel, text: str, method: str = "exp2m_cfg++", nfe: int = 6):
    """Return the approximated run's latents."""
    return approximated(model, plan_of(model, method, nfe), parse(text)).latents(PROMPTS, SEEDS)


def exact(model: LatentModel, method: str = "exp2m_cfg++", nfe: int = 6) -> torch.Tensor:
    """Return the plain loop's latents."""
    z_T = standard_normal((len(SEEDS), *model.latent_shape), generators(SEEDS))
    return sample(model.conditioned(PROMPTS), z_T, plan_of(model, method, nfe))
