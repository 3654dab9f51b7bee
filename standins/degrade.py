"""Spoil renders the way generated pictures are spoilt, for the networks that must judge those.

A judge trained on clean renders only understates every model: reconstructions and samples are
slightly blurred, off in colour, noisy. So half of each batch makes the VAE's round trip, and any
image may be blurred, shifted in colour and given noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL


def load_vae(folder: Path, device: str) -> AutoencoderKL:
    """Load a VAE in float32 (its weights may be stored in float16), frozen.

    Raises OSError in one line for a folder without one.
    """
    if not (folder / "config.json").is_file():
        raise OSError(f"no VAE in {folder}: no config.json; give what standins.train_vae wrote")
    vae = AutoencoderKL.from_pretrained(folder).float()
    vae.to(device, memory_format=torch.channels_last)  # a quarter faster
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: torch.Tensor, jitter: torch.Tensor) -> torch.Tensor:
    """Return decode(encode(images) + jitter), all in [-1, 1]; jitter (B, 4, 8, 8) or 0-dim.

    Runs under bfloat16 autocast, which errs far less than one of the 255 levels matters here.
    """
    with torch.autocast(images.device.type, torch.bfloat16):
        latents = vae.encode(images).latent_dist.mean
        return vae.decode(latents + jitter).sample.float().clamp(-1, 1)


def degrade(
    images: torch.Tensor, generator: torch.Generator, vae: AutoencoderKL | None = None
) -> torch.Tensor:
    """Spoil images (B, 3, 64, 64) in [-1, 1]; the same generator state gives the same result.

    With a VAE the first half of the batch goes through it, its latents off by up to 15 % noise.
    """
    count, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(device)

    if vae is not None:
        half = count // 2
        noise = torch.randn((half, 4, 8, 8), generator=generator).to(device)
        noise *= uniform(0, 0.15, half, 1, 1, 1) / vae.config.scaling_factor
        images = torch.cat([round_trip(vae, images[:half], noise), images[half:]])
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = images.lerp(blurred, uniform(-0.8, 0.8, count, 1, 1, 1).clamp(min=0))
    images = images * uniform(0.92, 1.08, count, 1, 1, 1) + uniform(-0.06, 0.06, count, 3, 1, 1)
    noise = torch.randn(images.shape, generator=generator).to(device)
    return (images + noise * uniform(-0.05, 0.08, count, 1, 1, 1).clamp(min=0)).clamp(-1, 1)
