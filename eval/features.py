"""The one stage that opens images: PNG files in, cached feature arrays out.

Everything after this file works on `Features`; a metric never opens a picture.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from eval.images import is_flat, write_atomic
from eval.scorers import STANDINS, ExactChecker, Inception, OpenClip, Scorer

SCORER = "ViT-B-32-quickgelu/openai"
READ = 256  # images held in memory at once


@dataclass(frozen=True)
class Features:
    """Features of the n valid images of one arm at one scale, ordered by (prompt, seed).

    prompt, seed  (n,) int64, index into the prompt list and seed
    clip          (n,) cosine between the image and its prompt
    fid           (n, d) float32, what FID and KID compare; (n, 0) when there is no extractor
    checks        (n, 2) 0 or 1: everything right, all pairs right; NaN where unknown
    invalid       why each excluded file was excluded: "file: reason"
    """

    prompt: np.ndarray
    seed: np.ndarray
    clip: np.ndarray
    fid: np.ndarray
    checks: np.ndarray
    invalid: np.ndarray


@dataclass
class Extractor:
    """The networks of one scoring.

    FID features come from `inception` when it is there, else from the scorer's image tower when
    `fid_from_scorer`, else there are none.
    """

    scorer: Scorer
    checker: ExactChecker | None = None
    inception: Inception | None = None
    fid_from_scorer: bool = True

    @property
    def identity(self) -> str:
        """16 hex digits; two extractors with the same value give the same features."""
        parts = [self.scorer.identity, self.fid_name if self.fid_from_scorer else "-"]
        parts += [x.identity if x else "-" for x in (self.checker, self.inception)]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    @property
    def fid_name(self) -> str:
        """What the FID features are, in words."""
        if self.inception:
            return self.inception.name
        return f"{self.scorer.name}: image embedding, of length √d"

    def fid_features(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features that FID compares, (n, d); d = 0 when there is no extractor."""
        if self.inception:
            return self.inception.images(pixels)
        if self.fid_from_scorer:
            return at_length_root_d(self.scorer.images(pixels))
        return np.zeros((len(pixels), 0), np.float32)


def at_length_root_d(embeddings: np.ndarray) -> np.ndarray:
    """Scale each row of (n, d) to length √d, so that a dimension's mean square is about 1.

    The contrastive loss sets an embedding's direction alone; its length carries nothing.
    """
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings * (embeddings.shape[1] ** 0.5 / length)


def extractor_for(scorer: str | None, standin: bool, fid: bool) -> tuple[Extractor, dict[str, str]]:
    """Load the networks that a run needs; what cannot be had is named in the second value.

    scorer  see OpenClip; None takes the stand-ins' own, or OpenAI's ViT-B/32 for real models
    fid     whether FID features are wanted: InceptionV3 for real models, the scorer for stand-ins
    """
    problems: dict[str, str] = {}
    spec = scorer or (f"local-dir:{STANDINS / 'clip'}" if standin else SCORER)
    extractor = Extractor(OpenClip(spec), fid_from_scorer=standin)
    if standin:
        try:
            extractor.checker = ExactChecker()
        except ValueError as error:
            problems["checker"] = str(error)
    elif fid:
        try:
            extractor.inception = Inception()
        except ValueError as error:
            problems["fid"] = str(error)
    return extractor, problems


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a PNG as uint8 (h, w, 3).

    Raises ValueError with a short reason for a file that is missing, not an image, cut off, not
    `size` (width, height), or of one single colour.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError("missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"not a readable image ({type(error).__name__})") from None
    if size and pixels.shape[1::-1] != size:
        raise ValueError(f"{pixels.shape[1]}×{pixels.shape[0]} pixels, not {size[0]}×{size[1]}")
    if is_flat(pixels):
        raise ValueError("one single colour")
    return pixels


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays atomically: a killed run leaves either the old file or the new one."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_npz(path: Path, stamp: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of a cache file, or None when it is absent, damaged or of another stamp."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["stamp"]) != stamp:
                return None
            return {name: data[name] for name in data.files if name != "stamp"}
    except Exception:  # whatever a damaged zip raises: it is only a cache
        return None


def _stamp(files: list[Path], prompts: list[str], known_bad: dict, identity: str, size) -> str:
    """Hash everything that the features depend on; a rewritten image changes its mtime."""
    listing = []
    for path in files:
        stat = path.stat() if path.is_file() else None
        listing.append((path.name, stat and (stat.st_size, stat.st_mtime_ns)))
    text = json.dumps([identity, listing, prompts, sorted(known_bad.items()), size])
    return hashlib.sha256(text.encode()).hexdigest()


def extract(
    folder: Path,
    key: str,
    prompts: list[str],
    seeds: list[int],
    size: tuple[int, int] | None,
    known_bad: list[dict],
    extractor: Extractor,
    text: np.ndarray,
) -> Features:
    """Return the features of images/<key>/<prompt:03d>_<seed>.png, from the cache where it holds.

    known_bad  entries {file, reason} that the sampling run itself found to be bad
    text       (P, d) embeddings of the prompts
    Missing, unreadable, wrongly sized and single-colour files are left out and named in `invalid`.
    """
    jobs = [(p, s) for p in range(len(prompts)) for s in seeds]
    files = [folder / "images" / key / f"{p:03d}_{s}.png" for p, s in jobs]
    bad = {Path(entry["file"]).name: str(entry["reason"]) for entry in known_bad}
    stamp = _stamp(files, prompts, bad, extractor.identity, size)
    cache = folder / "features" / f"{key}.npz"
    if cached := load_npz(cache, stamp):
        return Features(**cached)

    rows: dict[str, list] = {name: [] for name in ("prompt", "seed", "clip", "fid", "checks")}
    invalid: list[str] = []
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    for start in range(0, len(jobs), READ):
        good, pixels = [], []
        for job, path in zip(jobs[start : start + READ], files[start : start + READ], strict=True):
            try:
                if path.name in bad:
                    raise ValueError(bad[path.name])
                pixels.append(read_image(path, size))
                good.append(job)
            except ValueError as error:
                invalid.append(f"{path.name}: {error}")
        if not good:
            continue
        stack = np.stack(pixels)
        which = np.array([p for p, _ in good])
        image = extractor.scorer.images(stack)
        cosine = (image * unit[which]).sum(1) / np.linalg.norm(image, axis=1)
        rows["prompt"].append(which)
        rows["seed"].append(np.array([s for _, s in good]))
        rows["clip"].append(cosine)
        reuse = extractor.fid_from_scorer and not extractor.inception
        rows["fid"].append(at_length_root_d(image) if reuse else extractor.fid_features(stack))
        captions = [prompts[p] for p in which]
        unknown = np.full((len(good), 2), np.nan, np.float32)
        rows["checks"].append(
            extractor.checker.verdicts(stack, captions) if extractor.checker else unknown
        )
    empty = {"fid": np.zeros((0, 1), np.float32), "checks": np.zeros((0, 2), np.float32)}
    arrays = {
        name: np.concatenate(parts) if parts else empty.get(name, np.zeros(0))
        for name, parts in rows.items()
    }
    features = Features(**arrays, invalid=np.array(invalid, dtype=str))
    save_npz(
        cache,
        stamp=np.array(stamp),
        **{f.name: getattr(features, f.name) for f in fields(Features)},
    )
    return features
