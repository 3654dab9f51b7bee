"""SDXL with a distilled UNet, such as SDXL-Lightning's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.latent_model import place
from pipelines.loading import load_distilled
from pipelines.stable_diffusion_xl import BASE, SDXL, other_vae
from samplers.loop import Pair


class SDXLLightning(SDXL):
    """SDXL with a distilled UNet: few steps, trailing timesteps, no guidance.

    light_model_ckpt  what was distilled: a .safetensors file with a whole checkpoint or with the
                      UNet's weights in the diffusers format, or a folder with a UNet or a pipeline
    base_model_key    id or folder of the rest

    A distilled network has no unconditional mode: only the conditional row is evaluated, so that
    CFG++ and CFG samplers alike run on it alone. cfg_guidance must be 1.
    """

    def __init__(
        self,
        solver_config: Any,
        base_model_key: str = BASE,
        light_model_ckpt: str | Path = "ckpt/sdxl_lightning_4step_unet.safetensors",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        vae_key: str | None = None,
    ):
        device, dtype = place(device, dtype)
        vae = other_vae(vae_key, base_model_key, dtype)
        pipe = load_distilled(light_model_ckpt, base_model_key, dtype, **vae)
        found = f"{light_model_ckpt} on {base_model_key}"
        self._adopt(pipe, found, solver_config, device, dtype, spacing="trailing")

    def predict_noise(
        self,
        zt: torch.Tensor,
        t: torch.Tensor,
        uc: torch.Tensor | None,
        c: torch.Tensor | None,
        added_cond_kwargs: dict[str, torch.Tensor],
    ) -> Pair:
        """Return the conditional prediction twice; see `SDXL.predict_noise`."""
        return super().predict_noise(zt, t, None if c is not None else uc, c, added_cond_kwargs)

    @torch.no_grad()
    def sample(
        self,
        prompt1: Sequence[str | Sequence[str]] = ("", ""),
        prompt2: Sequence[str | Sequence[str]] | None = None,
        cfg_guidance: float = 1.0,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return images as `SDXL.sample` does; cfg_guidance must be 1."""
        if cfg_guidance != 1.0:
            raise ValueError(
                f"cfg_guidance is {cfg_guidance}; a distilled model takes no guidance, pass 1.0"
            )
        return super().sample(prompt1, prompt2, cfg_guidance, *args, **kwargs)
