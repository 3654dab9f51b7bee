"""Write PNG files that are there completely or not at all, and check them again."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FLAT_LEVELS = 1.0  # of 255: an image whose standard deviation is no more in any channel is flat
# What Pillow raises for a file that is no picture, is cut off or damaged, or claims a vast size.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
MEASURED = "latent_std"  # text chunk with the standard deviation of the final latent


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Round images (N, 3, H, W) in [0, 1] to uint8 (N, H, W, 3); values outside are clipped.

    One fixed mapping for every image: no contrast is stretched, so pictures stay comparable.
    """
    levels = (images.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()


def is_flat(pixels: np.ndarray) -> bool:
    """Tell whether an image (H, W, 3) is one constant colour, or nearly: see `FLAT_LEVELS`."""
    some = pixels[::4, ::4]  # 1/16 of the squares about their own mean: no more than all of them
    least = (some.size / pixels.size) ** 0.5 * float(some.std(axis=(0, 1), dtype=np.float32).max())
    if least > FLAT_LEVELS:
        return False
    return float(pixels.std(axis=(0, 1), dtype=np.float32).max()) <= FLAT_LEVELS


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file through a `.tmp` beside it, so that a killed process leaves no half file.

    Several processes may write the same file: the last one wins, and readers see a whole one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); what is complete stays, and once "
            "that is mended the same command goes on"
        ) from error


def write_png(path: Path, pixels: np.ndarray, texts: Mapping[str, str]) -> None:
    """Write pixels (H, W, 3) uint8 with text chunks; equal arguments give equal bytes."""
    chunks = PngInfo()
    for name, value in texts.items():
        chunks.add_text(name, value)  # falls back to an iTXt chunk beyond Latin-1
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks, compress_level=6)
    write_atomic(path, buffer.getvalue())


def is_valid_png(path: Path, size: tuple[int, int], texts: Mapping[str, str]) -> bool:
    """Tell whether a PNG is complete, decodes, has `size` (width, height) and exactly `texts`.

    What a chunk `MEASURED` says is no condition: it is not known before.
    """
    try:
        data = path.read_bytes()
        if not is_intact(data):
            return False
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            found = {name: text for name, text in image.text.items() if name != MEASURED}
            return image.size == size and image.mode == "RGB" and found == dict(texts)
    except (*UNREADABLE, AttributeError):
        return False  # Pillow reports damage as any of these


def is_intact(data: bytes) -> bool:
    """Tell whether a PNG runs to its last chunk with every checksum right.

    Pillow accepts a file without its end, and skips the checksum of the last image chunk.
    """
    if not data.startswith(SIGNATURE):
        return False
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body, end = data[at + 4 : at + 8 + length], at + 12 + length
        if data[end - 4 : end] != struct.pack(">I", zlib.crc32(body)):
            return False
        if body == b"IEND":
            return end == len(data)
        at = end
    return False
