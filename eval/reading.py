"""Read one picture for scoring: its pixels, what is wrong with it, and how it looks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eval.images import MEASURED, UNREADABLE, is_flat, is_intact

MISSING = "missing"
SAME = "the same pixels as"
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32) / 255  # ITU-R BT.709


@dataclass(frozen=True)
class Picture:
    """A valid picture.

    pixels      (h, w, 3) uint8
    latent_std  standard deviation of its final latent, which the run wrote beside the pixels; NaN
                where it did not
    """

    pixels: np.ndarray
    latent_std: float

    @property
    def digest(self) -> bytes:
        """16 bytes; equal for equal pixels."""
        return hashlib.blake2b(self.pixels, digest_size=16).digest()


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read any image as uint8 (h, w, 3).

    Raises ValueError with a short reason for a file that is missing, not an image, cut off, not
    `size` (width, height), or of one single colour (`eval.images.is_flat`).
    """
    return _read(path, size).pixels


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Picture:
    """Read a PNG of a run; as `read_image`, and ValueError for one without its end."""
    return _read(path, size, whole=True)


def _read(path: Path, size: tuple[int, int] | None, whole: bool = False) -> Picture:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(image.convert("RGB"))
            said = getattr(image, "text", {}).get(MEASURED, "nan")
    except FileNotFoundError:
        raise ValueError(MISSING) from None
    except UNREADABLE as error:
        raise ValueError(f"not a readable image ({type(error).__name__})") from None
    if whole and not is_intact(data):  # Pillow is content without the end and its checksums
        raise ValueError("not a readable image (cut off or altered)")
    if size and pixels.shape[1::-1] != size:
        raise ValueError(f"{pixels.shape[1]}×{pixels.shape[0]} pixels, not {size[0]}×{size[1]}")
    if is_flat(pixels):
        raise ValueError("one single colour")
    try:
        return Picture(pixels, float(said))
    except ValueError:
        return Picture(pixels, float("nan"))


def looks(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Return (n, 2) float32: mean saturation and RMS contrast of uint8 pictures, in [0, 1].

    Saturation as in HSV, (max − min)/max over the channels, averaged over pixels, 0 for black;
    contrast is the standard deviation of BT.709 luma of the encoded values (Peli 1990).
    """
    found = []
    for pixels in pictures:
        red, green, blue = (np.ascontiguousarray(pixels[..., c]) for c in range(3))
        high = np.maximum(np.maximum(red, green), blue)
        low = np.minimum(np.minimum(red, green), blue)
        saturation = ((high - low) / np.maximum(high, 1).astype(np.float32)).mean()
        luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        found.append((saturation, luma.std()))
    return np.array(found, np.float32).reshape(-1, 2)


def twins(names: list[str], digests: list[bytes]) -> dict[str, str]:
    """Map each file whose pixels another file has, too, to the first of those others."""
    same: dict[bytes, list[str]] = {}
    for name, digest in zip(names, digests, strict=True):
        same.setdefault(digest, []).append(name)
    return {
        name: group[1] if name == group[0] else group[0]
        for group in same.values()
        if len(group) > 1
        for name in group
    }
