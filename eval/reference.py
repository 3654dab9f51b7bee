"""The real side of FID: features of reference images, rendered or from a folder, cached."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from eval.features import Extractor, extractor_for, load_npz, read_image, save_npz
from eval.metrics import Statistics, kernel_within
from eval.progress import Progress

CACHE = Path(__file__).resolve().parent.parent / "build" / "reference"
RENDERS = 5000
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BATCH = 256


@dataclass(frozen=True)
class Reference:
    """What images are compared with; `features` is None when only statistics are known."""

    label: str
    statistics: Statistics
    features: np.ndarray | None = None

    @cached_property
    def kernel(self) -> float | None:
        """The reference's own part of KID, computed once for all arms."""
        return None if self.features is None else kernel_within(self.features)


def _of(features: np.ndarray, label: str) -> Reference:
    return Reference(label, Statistics.of(features), features)


def rendered(extractor: Extractor, count: int = RENDERS, cache: Path = CACHE) -> Reference:
    """Return features of clean renders 0 … count − 1 of the stand-in domain's split "reference".

    Held-out colour–shape pairs occur in it as often as any other, as they do in the prompts.
    """
    from standins import scenes

    source = hashlib.sha256(Path(scenes.__file__).read_bytes()).hexdigest()
    stamp = f"{extractor.identity} {count} {source}"
    path = cache / f"reference-{extractor.identity}.npz"
    label = f"{count} clean renders of the stand-in domain"
    if cached := load_npz(path, stamp):
        return _of(cached["features"], label)
    parts = []
    with Progress(count, "rendering the reference") as progress:
        for start in range(0, count, BATCH):
            indices = range(start, min(count, start + BATCH))
            pixels = [scenes.sample("reference", i, held_out=None)[1] for i in indices]
            parts.append(extractor.fid_features(np.stack(pixels)))
            progress.advance(len(pixels))
    features = np.concatenate(parts)
    save_npz(path, stamp=np.array(stamp), features=features)
    return _of(features, label)


def fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop to the aspect of `size` (width, height) and resize by PIL bicubic, antialiased."""
    image = Image.fromarray(pixels)
    scale = min(image.width / size[0], image.height / size[1])
    w, h = size[0] * scale, size[1] * scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (left, top, left + w, top + h)
    return np.array(image.resize(size, Image.Resampling.BICUBIC, box=box))


def _fitted(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        return fit(read_image(path), size)
    except ValueError as error:
        raise ValueError(f"reference image {path}: {error}; remove or replace it") from None


def from_folder(
    folder: Path, extractor: Extractor, size: tuple[int, int], cache: Path = CACHE
) -> Reference:
    """Return features of all images below a folder, cropped and resized to the run's size.

    Raises ValueError, naming the file, for an empty folder or a file that is not an image.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise ValueError(
            f"reference folder {folder}: {len(files)} images; FID needs at least 2 "
            f"({', '.join(SUFFIXES)}) and means little below some thousands"
        )
    listing = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    stamp = hashlib.sha256(repr((extractor.identity, size, listing)).encode()).hexdigest()
    path = cache / f"reference-{stamp[:16]}.npz"
    label = (
        f"{len(files)} images of {folder.name}, centre-cropped and resized to "
        f"{size[0]}×{size[1]} by PIL bicubic with antialiasing"
    )
    if cached := load_npz(path, stamp):
        return _of(cached["features"], label)
    parts = []
    with Progress(len(files), "reading the reference") as progress:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            parts.append(extractor.fid_features(np.stack([_fitted(p, size) for p in batch])))
            progress.advance(len(batch))
    features = np.concatenate(parts)
    save_npz(path, stamp=np.array(stamp), features=features)
    return _of(features, label)


def from_npz(path: Path) -> Reference:
    """Read `features` (n, d), or `mu` (d,) and `sigma` (d, d) with an optional `n`."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except Exception as error:  # numpy and zipfile each have their own
        raise ValueError(
            f"reference file {path}: not a readable .npz ({type(error).__name__})"
        ) from None
    if "features" in arrays:
        return _of(arrays["features"], f"{len(arrays['features'])} features of {path.name}")
    if "mu" in arrays and "sigma" in arrays:
        mu, sigma = (np.asarray(arrays[k], np.float64) for k in ("mu", "sigma"))
        if sigma.shape != (mu.size, mu.size):
            raise ValueError(
                f"reference file {path}: mu {mu.shape} and sigma {sigma.shape} do not fit together"
            )
        n = int(arrays["n"]) if "n" in arrays else 0
        return Reference(f"statistics of {path.name}", Statistics(n, mu, sigma))
    raise ValueError(
        f"reference file {path}: holds {', '.join(sorted(arrays)) or 'nothing'}; "
        "it needs 'features', or 'mu' and 'sigma'"
    )


def load(
    source: str | None, extractor: Extractor, size: tuple[int, int], standin: bool
) -> Reference | None:
    """Return the reference that a run is scored against; None when a real model has no `source`.

    source  a folder of images or an .npz; without it, stand-ins are compared with renders
    """
    if source is None:
        return rendered(extractor, cache=CACHE) if standin else None
    path = Path(source)
    if path.is_dir():
        return from_folder(path, extractor, size, cache=CACHE)
    if path.is_file():
        return from_npz(path)
    raise ValueError(f"reference {source!r}: no such folder or file; give images or an .npz")


def build(
    images: Path | None, out: Path | None = None, scorer: str | None = None, size: int = 512
) -> Path:
    """Compute reference features once and keep them as an .npz for `score --reference`.

    images  a folder, compared through InceptionV3; None renders the stand-ins' domain and embeds
            it with the scorer
    size    the side, in pixels, that folder images are cropped and resized to
    """
    standin = images is None
    extractor, problems = extractor_for(scorer, standin=standin, fid=True)
    if "fid" in problems:
        raise ValueError(f"the reference cannot be built: {problems['fid']}")
    if standin:
        found = rendered(extractor, cache=CACHE)
    elif images.is_dir():
        found = from_folder(images, extractor, (size, size), cache=CACHE)
    else:
        raise ValueError(f"reference folder {images}: not a folder; give one with images in it")
    out = out or CACHE / f"{images.name if images else 'standin'}-features.npz"
    save_npz(out, features=found.features)
    return out
