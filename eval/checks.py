"""What makes an image unfit for scoring, said of each batch before it is written.

Such an image is recorded with its reason, counted in the tables, and makes its arm invalid; it
never enters a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eval.images import is_flat, to_uint8
from eval.prompts import noise_seed
from eval.reading import SAME, twins

UNWRITTEN = ", no image written"  # ends the reasons of images that are not on disk
NOT_FINITE = "NaN or infinite values" + UNWRITTEN
FLAT = "constant image"


@dataclass(frozen=True)
class Row:
    """One image of every arm: the `index`-th prompt with one seed of the run."""

    index: int
    prompt: str
    seed: int

    @property
    def noise(self) -> int:
        """What seeds its noise; `eval generate --seed` draws the same image from it."""
        return noise_seed(self.prompt, self.seed)

    @property
    def file(self) -> str:
        return f"{self.index:03d}_{self.seed}.png"


@dataclass(frozen=True)
class Batch:
    """Drawn images of `rows`, with what is wrong with them.

    pixels  (N, H, W, 3) uint8
    spread  (N,) standard deviation of each final latent
    reasons file → why it cannot be scored; those that end in UNWRITTEN are not to be written
    """

    rows: Sequence[Row]
    pixels: np.ndarray
    spread: list[float]
    reasons: dict[str, str]

    def writable(self) -> list[tuple[Row, np.ndarray, float]]:
        """Return row, pixels and spread of each image that is to be written."""
        return [
            (row, pixels, spread)
            for row, pixels, spread in zip(self.rows, self.pixels, self.spread, strict=True)
            if not self.reasons.get(row.file, "").endswith(UNWRITTEN)
        ]


def check(
    rows: Sequence[Row],
    latents: torch.Tensor,
    images: torch.Tensor,
    size: tuple[int, int],
) -> Batch:
    """Look for NaN and infinite values, constant images, a wrong size, and images drawn twice.

    latents  (N, …) final latents, on the CPU
    images   (N, 3, H, W) in [0, 1], on the CPU
    size     (width, height) that they must have
    """
    finite = [
        bool(z.isfinite().all() and x.isfinite().all())
        for z, x in zip(latents, images, strict=True)
    ]
    pixels = to_uint8(images)
    height, width = pixels.shape[1:3]
    same = twins([row.file for row in rows], [image.tobytes() for image in pixels])
    reasons = {}
    for k, row in enumerate(rows):
        if not finite[k]:
            reasons[row.file] = NOT_FINITE
        elif (width, height) != size:
            reasons[row.file] = f"{width}×{height} pixels, not {size[0]}×{size[1]}" + UNWRITTEN
        elif is_flat(pixels[k]):
            reasons[row.file] = FLAT
        elif row.file in same:
            reasons[row.file] = f"{SAME} {same[row.file]}"
    spread = [float(z.double().std(correction=0)) for z in latents]
    return Batch(rows, pixels, spread, reasons)
