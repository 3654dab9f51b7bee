"""Views of a scene for SDXL's size and crop conditioning: cut off, or enlarged from few pixels.

SDXL is told of each training picture how large the file was (`original_size`; small files are
blurred by enlarging) and how much the crop cut off at the top and left, so that sampling with the
full size and (0, 0) gives sharp, whole pictures (arXiv:2307.01952, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from standins.scenes import SIZE

LEAST_ORIGINAL = 16  # pixels
MOST_CROPPED = 24  # pixels


@dataclass(frozen=True)
class View:
    """How a picture came to be: its side in pixels before enlarging, and (top, left) cut off."""

    original: int = SIZE
    crop: tuple[int, int] = (0, 0)

    @property
    def time_ids(self) -> tuple[int, ...]:
        """(original height, width, crop top, left, target height, width), as SDXL takes them."""
        return (self.original, self.original, *self.crop, SIZE, SIZE)


WHOLE = View()


def random_view(rng: np.random.Generator) -> View:
    """Draw a view: 4 in 10 are cropped and 3 in 10 enlarged, independently."""
    crop = tuple(int(n) for n in rng.integers(0, MOST_CROPPED + 1, 2) * (rng.random() < 0.4))
    small = rng.random() < 0.3
    return View(int(rng.integers(LEAST_ORIGINAL, SIZE)) if small else SIZE, crop)


def enlarged(image: torch.Tensor, original: int) -> torch.Tensor:
    """Shrink (B, 3, 64, 64) to `original` pixels a side and enlarge it again."""
    if original == SIZE:
        return image
    small = F.interpolate(image, (original, original), mode="area")
    return F.interpolate(small, (SIZE, SIZE), mode="bicubic", align_corners=False).clamp(-1, 1)
