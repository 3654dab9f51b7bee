"""Load pipelines from the hub or a folder; ids that have moved are found at their mirrors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from pipelines.places import MODELS, SINGLE_FILE, places

KINDS: dict[str, type[DiffusionPipeline]] = {
    "sd": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
}
_WITHOUT = {"sd": {"safety_checker": None, "requires_safety_checker": False}, "sdxl": {}}

# diffusers takes the new name since 0.40 and warns about the old one; before, it ignores the new
PRECISION = (
    "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40) else "torch_dtype"
)


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def pipeline_kind(model_key: str) -> str:
    """Return "sd" or "sdxl" for a folder or hub id, from its model_index.json alone.

    Raises OSError when there is none, ValueError for another kind of pipeline; one line each.
    """
    reasons = []
    for key in places(model_key):
        try:
            index = _index_file(key).read_text(encoding="utf-8")
        except (OSError, HFValidationError) as error:
            reasons.append(f"{key}: {_first_line(error)}")
            continue
        named = json.loads(index).get("_class_name")
        for kind, pipeline in KINDS.items():
            if named == pipeline.__name__:
                return kind
        known = ", ".join(pipeline.__name__ for pipeline in KINDS.values())
        raise ValueError(f"{key} is a {named}; the pipelines that can be sampled here: {known}")
    raise OSError(_not_found(reasons, model_key))


def load_pipeline(
    model_key: str, dtype: torch.dtype, kind: str = "sd", **components: Any
) -> tuple[DiffusionPipeline, str]:
    """Return a pipeline without safety checker, and the id or folder that it came from.

    kind        "sd" or "sdxl"
    components  replace the pipeline's own, for example vae=

    Raises OSError in one line naming what was tried and the remedy; ValueError when the pipeline
    is of another kind.
    """
    _no_bars()
    found = pipeline_kind(model_key)
    if found != kind:
        right = {"sd": "latent_diffusion.StableDiffusion", "sdxl": "latent_sdxl.SDXL"}[found]
        raise ValueError(f"{model_key} is a {KINDS[found].__name__}; load it with {right}")
    reasons = []
    for key in places(model_key):
        for variant in _variants(key, dtype):
            try:
                pipe = KINDS[kind].from_pretrained(
                    key, variant=variant, **_WITHOUT[kind], **components, **{PRECISION: dtype}
                )
            except (OSError, ValueError) as error:
                reasons.append(f"{key}: {_first_line(error)}")
            else:
                return pipe, key
    raise OSError(_not_found(reasons, model_key))


def load_distilled(
    checkpoint: str | Path, base_key: str, dtype: torch.dtype, **components: Any
) -> DiffusionPipeline:
    """Return an SDXL pipeline whose UNet is a distilled one.

    checkpoint  a folder with a pipeline or a UNet, or a .safetensors file with a whole checkpoint
                (keys "model.diffusion_model.…") or a UNet's weights in the diffusers format
    base_key    id or folder of what the checkpoint lacks
    """
    path = Path(checkpoint)
    if (path / "model_index.json").is_file():
        return load_pipeline(str(path), dtype, "sdxl", **components)[0]
    if path.is_dir():
        _require_sdxl_unet(path)
        unet = UNet2DConditionModel.from_pretrained(path, **{PRECISION: dtype})
        return load_pipeline(base_key, dtype, "sdxl", unet=unet, **components)[0]
    if not path.is_file():
        raise OSError(
            f"no checkpoint {path}; give a distilled UNet as a .safetensors file or a folder, for "
            "example from `hf download ByteDance/SDXL-Lightning`"
        )
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises classes of its own
        raise OSError(f"cannot read {path} as safetensors: {_first_line(error)}") from None
    if any(name.startswith("model.diffusion_model.") for name in weights):
        _no_bars()
        base = places(base_key)[0]
        try:
            return StableDiffusionXLPipeline.from_single_file(
                str(path), config=base, **components, **{PRECISION: dtype}
            )
        except (OSError, ValueError) as error:
            raise OSError(
                f"cannot load {path} as a checkpoint of {base}: {_first_line(error)}"
            ) from None
    pipe = load_pipeline(base_key, dtype, "sdxl", **components)[0]
    expected = pipe.unet.state_dict()
    odd = expected.keys() ^ weights.keys() or {
        name for name, w in weights.items() if w.shape != expected[name].shape
    }
    if odd:
        raise ValueError(
            f"{path} does not fit the UNet of {base_key}, for example at {min(odd)!r}; it must "
            "hold that UNet's weights in the diffusers format"
        )
    pipe.unet.load_state_dict(weights)
    return pipe


def _require_sdxl_unet(folder: Path) -> None:
    """Raise ValueError for a folder with another network, or with another family's UNet."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = config.get("_class_name"), config.get("addition_embed_type")
    if found != (UNet2DConditionModel.__name__, "text_time"):
        known = {None: "no network", UNet2DConditionModel.__name__: "a UNet, but not SDXL's"}
        raise ValueError(
            f"{folder} holds {known.get(found[0], found[0])}; give the folder of a distilled "
            "SDXL UNet or pipeline, or a .safetensors file"
        )


def load_vae(key: str, dtype: torch.dtype) -> AutoencoderKL:
    """Load a VAE of its own id or folder; raises OSError in one line."""
    _no_bars()
    try:
        return AutoencoderKL.from_pretrained(key, **{PRECISION: dtype})
    except (OSError, ValueError) as error:
        raise OSError(_not_found([f"{key}: {_first_line(error)}"], key, "VAE")) from None


def _variants(key: str, dtype: torch.dtype) -> tuple[str | None, ...]:
    """Half-precision files are half the download; of a folder they may be all there is."""
    if Path(key).is_dir():
        return (None, "fp16")
    return ("fp16", None) if dtype == torch.float16 else (None,)


def _index_file(key: str) -> Path:
    if not Path(key).is_dir():
        return Path(hf_hub_download(key, "model_index.json"))
    if not (Path(key) / "model_index.json").is_file():
        raise OSError(f"no model_index.json in {key}; give a folder in the diffusers format")
    return Path(key) / "model_index.json"


def _no_bars() -> None:
    for noisy in (diffusers_logging, transformers_logging):
        noisy.disable_progress_bar()  # a bar per component says nothing of use


def _not_found(reasons: list[str], model_key: str, what: str = "pipeline") -> str:
    place = places(model_key)[-1]
    remedy = f"download it once with `hf download {place}`, or give a local folder"
    if Path(place).suffix in (".safetensors", ".ckpt"):
        remedy = SINGLE_FILE
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or place.startswith("."):
        remedy = f"give {', '.join(MODELS)}, an existing folder or a hub id such as owner/name"
    return f"cannot load a {what} ({'; '.join(dict.fromkeys(reasons))}); {remedy}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
