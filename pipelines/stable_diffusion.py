"""A loaded Stable Diffusion 1.x or 2.x model with what CFGpp's solvers ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipelines.latent_model import LatentModel, listed, place, token_ids
from pipelines.loading import load_pipeline
from pipelines.text_cache import TextCache
from samplers.loop import Model, Pair


class StableDiffusion(LatentModel):
    """A loaded model with what CFGpp's solvers offer: embeddings, noise prediction, VAE, schedule.

    solver_config  has `num_sampling`, the number of evaluations: an attribute or a dict's key
    model_key      hub id or folder in the diffusers format; deleted ids fall back to their mirrors
    device         default: cuda, else mps, else cpu
    pipe_dtype     default: float16 on CUDA, float32 elsewhere; `dtype`, its name on SDXL, is taken
                   too
    """

    def __init__(
        self,
        solver_config: Any,
        model_key: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        device: torch.device | str | None = None,
        **kwargs: Any,
    ):
        device, dtype = place(device, kwargs.pop("pipe_dtype", kwargs.pop("dtype", None)))
        if kwargs:
            raise TypeError(f"unknown arguments {', '.join(kwargs)}; known: pipe_dtype, dtype")
        pipe, found = load_pipeline(model_key, dtype)
        self._adopt(pipe, found, solver_config, device, dtype)
        self.text_encoder = pipe.text_encoder.to(device, dtype).eval()
        self.tokenizer = pipe.tokenizer
        self._texts = TextCache(self._embed, lambda: [self.text_encoder])

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> tuple[torch.Tensor]:
        return (self.text_encoder(token_ids(self.tokenizer, texts).to(self.device))[0],)

    def get_text_embed(
        self, null_prompt: str | Sequence[str], prompt: str | Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (uncond, cond) embeddings (N, tokens, width), one row for each given text."""
        return self._texts(listed(null_prompt))[0], self._texts(listed(prompt))[0]

    def conditioned(self, prompts: Sequence[str], null_prompt: str = "") -> Model:
        return self.given(*self.get_text_embed(null_prompt, prompts))

    def predict_noise(
        self,
        zt: torch.Tensor,
        t: torch.Tensor,
        uc: torch.Tensor | None,
        c: torch.Tensor | None,
    ) -> Pair:
        """Return (ε_uncond, ε_cond) for latents (B, 4, h, w) at one timestep, in one network call.

        uc, c  embeddings with B rows or one row for all; None evaluates the other alone and
               returns it twice. v-predictions are converted.
        """
        return self._predict(zt, t, uc, c)

    def kdiffusion_x_to_denoised(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        uc: torch.Tensor,
        c: torch.Tensor,
        cfg_guidance: float,
        t: torch.Tensor,
    ) -> Pair:
        """Return (guided, unconditional) clean estimates of a VE state at noise level σ."""
        noise = self.predict_noise(self.calculate_input(x, sigma), t, uc, c)
        return self._denoised(x, sigma, noise, cfg_guidance)
