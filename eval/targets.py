"""Decide where pictures are written, and whether that can be, before anything is drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CELL = 256  # pixels of the longer side of a picture on a contact sheet, at most
GAP = 2  # pixels


@dataclass(frozen=True)
class Targets:
    """Files of the images, in order, and of the contact sheet (None for a single image)."""

    images: tuple[Path, ...]
    sheet: Path | None


def targets(out: Path, names: Sequence[str]) -> Targets:
    """Place images under `out`: a .png file or a folder, new or not.

    One image goes to the file itself; several go beside it as x_NAME.png and x.png is their contact
    sheet. In a folder they are NAME.png, with sheet.png.
    Raises ValueError for another kind of file and for a place that cannot be written to.
    """
    is_file = out.suffix.lower() == ".png"
    if is_file and out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a folder without .png, or another file")
    other = out.suffix.lower() in Image.registered_extensions()
    if not is_file and (out.is_file() or (other and not out.is_dir())):
        raise ValueError(f"--out {out}: images are PNG; give a file ending in .png, or a folder")
    _check_writable(out.parent if is_file else out)
    if is_file and len(names) == 1:
        return Targets((out,), None)
    stem = f"{out.stem}_" if is_file else ""
    folder = out.parent if is_file else out
    files = tuple(folder / f"{stem}{name}.png" for name in names)
    sheet = out if is_file else out / "sheet.png"
    return Targets(files, sheet if len(names) > 1 else None)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lay out equal-sized pictures (H, W, 3) in rows of `columns`, on white; large ones smaller."""
    height, width = pictures[0].shape[:2]
    factor = min(1.0, CELL / max(height, width))
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i, pixels in enumerate(pictures):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        if factor < 1:
            small = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.asarray(small)
        sheet[top : top + height, left : left + width] = pixels
    return sheet


def _check_writable(folder: Path) -> None:
    """Refuse a folder that is none, or whose first existing ancestor cannot be written to."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"--out: {place} is a file, not a folder; choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"--out: no permission to write into {place}; choose another place")
