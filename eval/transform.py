"""Invert or edit a given image: `python -m eval invert` and `python -m eval edit`.

Thin: the model's own solvers do the work. Inversion runs the image to noise and back, which shows
how well a method keeps it; an edit comes back under another prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from eval import models
from eval.image_text import chunks, version
from eval.images import UNREADABLE, to_uint8, write_png
from eval.targets import targets

METHODS = {
    "invert": ("ddim_inversion", "ddim_inversion_cfg++"),
    "edit": ("ddim_edit", "ddim_edit_cfg++", "coupled_edit", "coupled_edit_cfg++"),
}
# Default strengths. An edit by inversion goes on from noise that fits another prompt: at the
# strength for drawing it burns out.
STRENGTHS = {
    "ddim_inversion": 7.5,
    "ddim_inversion_cfg++": 0.6,
    "ddim_edit": 2.0,
    "ddim_edit_cfg++": 0.2,
    "coupled_edit": 5.0,
    "coupled_edit_cfg++": 0.4,
}


@dataclass(frozen=True)
class Request:
    """What to do with which image; see `python -m eval invert --help`.

    texts  [prompt] to invert, [source, target] to edit
    """

    command: str  # "invert" or "edit"
    model: str
    method: str
    image: Path
    texts: tuple[str, ...]
    out: Path
    null_prompt: str = ""
    cfg_guidance: float | None = None
    nfe: int = 50
    seed: int = 42
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Result:
    """Where the picture is, and its distance from the given one: PSNR in dB."""

    file: Path
    psnr: float
    notes: list[str]


def transform(request: Request, load: Callable[..., models.Sampler] = models.load) -> Result:
    """Run an image through its inversion and back, and write the picture that comes out.

    Raises ValueError, before the model is loaded where possible, for what the caller can mend.
    """
    from samplers.errors import choose, finite

    choose("method", request.method, dict.fromkeys(METHODS[request.command]))
    if request.nfe < 1:
        raise ValueError(f"NFE is {request.nfe}; it must be a whole number of at least 1")
    strength = STRENGTHS[request.method]
    if request.cfg_guidance is not None:
        strength = finite("cfg_guidance", request.cfg_guidance)
    (out,) = targets(request.out, [request.command]).images
    picture = open_image(request.image)
    source = models.find(request.model)
    device = models.choose_device(request.device)
    dtype = models.choose_dtype(request.dtype, source, device)
    solver = load(source, request.nfe, device, dtype, request.method)
    given, note = fit(picture, models.image_size(solver))

    images = models.ask(
        solver,
        [request.null_prompt, *request.texts],
        cfg_guidance=strength,
        src_img=to_tensor(given),
        seeds=request.seed,
    )
    if not torch.isfinite(images).all():
        raise ValueError(f"method {request.method!r} gave NaN: lower --cfg_guidance, raise --NFE")
    pixels = to_uint8(images)[0]
    result = Result(out, psnr(given, pixels), [f"{request.image}: {note}"] if note else [])
    facts = {
        "prompt": request.texts[-1],
        "source": request.texts[0] if len(request.texts) > 1 else None,
        "null_prompt": request.null_prompt,
        "command": request.command,
        "image": request.image.name,
        "image_sha256": hashlib.sha256(request.image.read_bytes()).hexdigest(),
        "image_fitted": note,
        "psnr": result.psnr if math.isfinite(result.psnr) else None,
        "method": request.method,
        "scale": strength,
        "nfe": request.nfe,
        "seed": request.seed,
        "size": list(pixels.shape[1::-1]),
        "model": source.label,
        "standin": source.standin,
        **models.fingerprint(source, solver.card()),
        "device": device.partition(":")[0],
        "dtype": dtype,
        "version": version(),
    }
    write_png(out, pixels, chunks(facts))
    return result


def open_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright, transparency on white; ValueError when it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except FileNotFoundError:
        raise ValueError(f"no image {path}; give an existing PNG, JPEG or WebP file") from None
    except UNREADABLE as error:
        raise ValueError(
            f"cannot read {path} as an image ({type(error).__name__}); give a whole PNG, JPEG or "
            "WebP file"
        ) from None
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright).convert("RGB")


def fit(image: Image.Image, size: tuple[int, int]) -> tuple[np.ndarray, str | None]:
    """Return pixels (H, W, 3) of `size` (width, height), and what was done to get there.

    The centre is cropped to the shape of `size`, then resized by Lanczos' method.
    """
    if image.size == size:
        return np.asarray(image), None
    fitted = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    was, now = ("×".join(map(str, pair)) for pair in (image.size, size))
    return np.asarray(fitted), f"{was} cropped at the centre and resized to {now} (Lanczos)"


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Map pixels (H, W, 3) to a tensor (1, 3, H, W) in [−1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images in dB; infinite when equal."""
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
