"""The real side of FID: features of reference images, rendered or from a folder, cached."""

from __future__ import annotations

import hashlib
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eval.extractor import Extractor, extractor_for
from eval.features import load_npz, save_npz
from eval.metrics import Statistics
from eval.progress import Progress
from eval.reading import read_image
from eval.reference_set import Reference, joined, reference_of

CACHE = Path(__file__).resolve().parent.parent / "build" / "reference"
RENDERS = 5000
CAPTIONS, DOMAIN = "standin-captions", "standin-domain"  # renders that a run may be compared with
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BATCH = 256
TOLERATED = 0.01  # share of unreadable reference files that is left out with a word, not refused


def rendered(
    extractor: Extractor, kind: str = CAPTIONS, count: int = RENDERS, cache: Path = CACHE
) -> Reference:
    """Return features of the first `count` clean renders of a kind of the stand-ins' scenes.

    kind  CAPTIONS: scenes that the prompt files' rule chose, so of the captions' own mix
          (`standins.make_prompts`); no caption of a prompt file is among them.
          DOMAIN: scenes as they come, held-out pairs as often as any other. The captions name such
          pairs twice as often and hardly ever alike objects, so true pictures of the captions are
          a FID of 1.1 away from it (docs/evaluation.md)
    """
    from standins import make_prompts, scenes

    if kind == DOMAIN:
        drawn = [("reference", i, {}) for i in range(count)]
        label = f"{count} clean renders of the stand-in domain"
    else:
        listed = make_prompts.reference_scenes()[:count]
        drawn = [("prompts", index, {"count": objects}) for objects, index in listed]
        label = f"{count} clean renders of other captions' scenes"
    source = hashlib.sha256(Path(scenes.__file__).read_bytes() + repr(drawn).encode()).hexdigest()
    stamp = f"with parts {extractor.identity} {source}"
    path = cache / f"reference-{kind}-{extractor.identity}.npz"
    if cached := load_npz(path, stamp):
        return reference_of(cached, label)
    parts = []
    with Progress(count, "rendering the reference") as progress:
        for start in range(0, count, BATCH):
            batch = drawn[start : start + BATCH]
            pixels = [
                scenes.sample(split, index, held_out=None, **options)[1]
                for split, index, options in batch
            ]
            parts.append(extractor.arrays(np.stack(pixels)))
            progress.advance(len(pixels))
    arrays = joined(parts, extractor)
    _keep(path, stamp=np.array(stamp), **arrays)
    return reference_of(arrays, label)


def fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop to the aspect of `size` (width, height) and resize by PIL bicubic, antialiased."""
    image = Image.fromarray(pixels)
    scale = min(image.width / size[0], image.height / size[1])
    w, h = size[0] * scale, size[1] * scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (left, top, left + w, top + h)
    return np.array(image.resize(size, Image.Resampling.BICUBIC, box=box))


def from_folder(
    folder: Path, extractor: Extractor, size: tuple[int, int], cache: Path = CACHE
) -> Reference:
    """Return features of all images below a folder, cropped and resized to the run's size.

    Raises ValueError, naming a file, for an empty folder and one with unreadable files in it.
    """
    files = image_files(folder)
    listing = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return from_files(files, folder.name, listing, extractor, size, cache)


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder, in order; ValueError for fewer than two."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise ValueError(
            f"reference folder {folder}: {len(files)} images; FID needs at least 2 "
            f"({', '.join(SUFFIXES)}) and means little below some thousands"
        )
    return files


def from_files(
    files: Sequence[Path | zipfile.Path],
    name: str,
    state: object,
    extractor: Extractor,
    size: tuple[int, int],
    cache: Path = CACHE,
) -> Reference:
    """Return features of images, cropped and resized, from the cache where it holds.

    name   of the whole, for the label
    state  whatever changes when the files do
    Up to `TOLERATED` of the files may be unreadable: they are named on stderr, and the label counts
    them. Raises ValueError, naming one, when there are more.
    """
    stamp = hashlib.sha256(
        repr(("with parts", extractor.identity, size, state)).encode()
    ).hexdigest()
    path = cache / f"reference-{stamp[:16]}.npz"
    if cached := load_npz(path, stamp):
        return reference_of(cached, str(cached["label"]), size)
    parts, bad = [], []
    with Progress(len(files), "reading the reference") as progress:
        for start in range(0, len(files), BATCH):
            batch, pixels = files[start : start + BATCH], []
            for file in batch:
                try:
                    pixels.append(fit(read_image(file), size))
                except (ValueError, zipfile.BadZipFile, zlib.error) as error:
                    bad.append(f"reference image {file}: {error}")
            if len(bad) > TOLERATED * len(files):
                raise ValueError(f"{bad[0]}; remove or replace it")
            if pixels:
                parts.append(extractor.arrays(np.stack(pixels)))
            progress.advance(len(batch))
    for line in bad:
        print(f"{line}; left out", file=sys.stderr)
    label = f"{len(files) - len(bad)} images of {name}"
    label += f" ({len(bad)} unreadable, left out)" if bad else ""
    label += f", centre-cropped and resized to {size[0]}×{size[1]} by PIL bicubic with antialiasing"
    arrays = joined(parts, extractor)
    _keep(path, stamp=np.array(stamp), label=np.array(label), **arrays)
    return reference_of(arrays, label, size)


def _keep(path: Path, **arrays: np.ndarray) -> None:
    """Cache arrays, or say that they cannot be: a checkout may be read-only."""
    try:
        save_npz(path, **arrays)
    except OSError as error:
        print(f"the reference is not kept for next time: {error}", file=sys.stderr)


def from_npz(path: Path, scorer: str | None = None) -> Reference:
    """Read `features` (n, d), or `mu` (d,) and `sigma` (d, d) with an optional `n`.

    scorer  identity of the run's scorer: embeddings of another one are left out
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except Exception as error:  # numpy and zipfile each have their own
        raise ValueError(
            f"reference file {path}: not a readable .npz ({type(error).__name__})"
        ) from None
    for name in ("features", "mu", "sigma"):
        values = arrays.get(name)
        if values is not None and (
            values.ndim != (1 if name == "mu" else 2)
            or values.dtype.kind not in "fiu"
            or not np.isfinite(values).all()
        ):
            raise ValueError(
                f"reference file {path}: {name} of shape {values.shape} is not a finite "
                f"{'vector' if name == 'mu' else 'matrix'}; build it again"
            )
    if "features" in arrays:
        if scorer is None or str(arrays.get("scorer")) != scorer:
            arrays.pop("embedding", None)
        label = f"{len(arrays['features'])} features of {path.name}"
        size = tuple(map(int, arrays["size"])) if "size" in arrays else None
        return reference_of(arrays, str(arrays.get("label", label)), size)
    if "mu" in arrays and "sigma" in arrays:
        mu, sigma = (np.asarray(arrays[k], np.float64) for k in ("mu", "sigma"))
        if sigma.shape != (mu.size, mu.size):
            raise ValueError(
                f"reference file {path}: mu {mu.shape} and sigma {sigma.shape} do not fit together"
            )
        try:
            n = int(arrays.get("n", 0))
        except (TypeError, ValueError):
            raise ValueError(f"reference file {path}: n is {arrays['n']!r}, no number") from None
        return Reference(f"statistics of {path.name}", Statistics(n, mu, sigma))
    raise ValueError(
        f"reference file {path}: holds {', '.join(sorted(arrays)) or 'nothing'}; "
        "it needs 'features', or 'mu' and 'sigma'"
    )


def check(source: str) -> None:
    """Raise ValueError when nothing is there that images can be compared with; reads no image."""
    if source in (CAPTIONS, DOMAIN):
        return
    path = Path(source)
    if path.is_dir():
        image_files(path)
    elif path.exists():
        from_npz(path)
    else:
        raise ValueError(f"reference {source!r}: no such folder or file; give images or an .npz")


def load(
    source: str | None, extractor: Extractor, size: tuple[int, int], standin: bool
) -> Reference | None:
    """Return the reference that a run is scored against; None when a real model has no `source`.

    source  a folder of images, an .npz, CAPTIONS or DOMAIN; without it, stand-ins are compared with
            CAPTIONS
    """
    if source is None and not standin:
        return None
    if source in (None, CAPTIONS, DOMAIN):
        return rendered(extractor, source or CAPTIONS, cache=CACHE)
    check(source)
    path = Path(source)
    if path.is_dir():
        return from_folder(path, extractor, size, cache=CACHE)
    return from_npz(path, extractor.scorer.identity)


def build(
    images: Path | None, out: Path | None = None, scorer: str | None = None, size: int = 512
) -> Path:
    """Compute reference features once and keep them as an .npz for `score --reference`.

    images  a folder, compared through InceptionV3; None renders CAPTIONS and embeds them with the
            scorer
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
    return save(found, extractor, out or CACHE / f"{images.name if images else 'standin'}.npz")


def save(found: Reference, extractor: Extractor, out: Path) -> Path:
    """Write what `from_npz` reads, with `mu`, `sigma` and `n` for other programs; return `out`."""
    known = {name: getattr(found, name) for name in ("features", "embedding", "looks")}
    arrays = {name: values for name, values in known.items() if values is not None}
    told = {"label": found.label, "scorer": extractor.scorer.identity, "n": found.statistics.n}
    told |= {"size": found.size} if found.size else {}
    arrays |= {name: np.array(value) for name, value in told.items()} | found.parts()
    save_npz(out, mu=found.statistics.mean, sigma=found.statistics.cov, **arrays)
    return out
