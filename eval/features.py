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

from eval.extractor import Extractor, unit
from eval.images import write_atomic
from eval.reading import MISSING, SAME, Picture, read_picture, twins

READ = 128  # images held in memory at once


@dataclass(frozen=True)
class Features:
    """Features of the n valid images of one arm at one scale, ordered by (prompt, seed).

    prompt, seed  (n,) int64, index into the prompt list and seed
    clip, clip2   (n,) cosine between the image and its prompt, by the first and second scorer; NaN
                  without the second
    embedding     (n, e) float32, the first scorer's image embeddings at length 1
    fid           (n, d) float32, what FID and KID compare; (n, 0) when there is no extractor
    checks        (n, 2) 0 or 1: everything right, all pairs right; NaN where unknown
    looks         (n, 2) mean saturation and RMS contrast, in [0, 1]
    latent_std    (n,) standard deviation of the final latent; NaN where the run did not note it
    invalid       why each excluded file was excluded: "file: reason"
    """

    prompt: np.ndarray
    seed: np.ndarray
    clip: np.ndarray
    clip2: np.ndarray
    embedding: np.ndarray
    fid: np.ndarray
    checks: np.ndarray
    looks: np.ndarray
    latent_std: np.ndarray
    invalid: np.ndarray

    def excluded(self, reason: str) -> int:
        """Count the files that were excluded for a reason that begins so."""
        return sum(text.split(": ", 1)[1].startswith(reason) for text in self.invalid.tolist())

    @property
    def missing(self) -> int:
        return self.excluded(MISSING)

    @property
    def duplicates(self) -> int:
        return self.excluded(SAME)


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
    text2: np.ndarray | None = None,
) -> Features:
    """Return the features of images/<key>/<prompt:03d>_<seed>.png, from the cache where it holds.

    known_bad  entries {file, reason} that the sampling run itself found to be bad
    text       (P, d) embeddings of the prompts; `text2` those of the second scorer
    Missing, unreadable, wrongly sized and single-colour files, and those whose pixels another file
    has, too, are left out and named in `invalid`.
    """
    jobs = [(p, s) for p in range(len(prompts)) for s in seeds]
    files = [folder / "images" / key / f"{p:03d}_{s}.png" for p, s in jobs]
    bad = {Path(entry["file"]).name: str(entry["reason"]) for entry in known_bad}
    stamp = _stamp(files, prompts, bad, extractor.identity, size)
    cache = folder / "features" / f"{key}.npz"
    if cached := load_npz(cache, stamp):
        return Features(**cached)

    rows: list[dict[str, np.ndarray]] = []
    names: list[str] = []
    digests: list[bytes] = []
    reasons: dict[str, str] = {}
    for start in range(0, len(jobs), READ):
        good: list[tuple[int, int]] = []
        pictures: list[Picture] = []
        for job, path in zip(jobs[start : start + READ], files[start : start + READ], strict=True):
            try:
                if path.name in bad:
                    raise ValueError(bad[path.name])
                pictures.append(read_picture(path, size))
                good.append(job)
                names.append(path.name)
            except ValueError as error:
                reasons[path.name] = str(error)
        if good:
            digests += [picture.digest for picture in pictures]
            rows.append(_measured(good, pictures, prompts, extractor, text, text2))
    same = twins(names, digests)
    reasons |= {name: f"{SAME} {other}" for name, other in same.items()}
    keep = np.array([name not in same for name in names], bool)
    one_row = {"embedding": (0, 1), "fid": (0, 1), "checks": (0, 2), "looks": (0, 2)}
    arrays = {
        f.name: np.concatenate([row[f.name] for row in rows])[keep]
        if rows
        else np.zeros(one_row.get(f.name, (0,)), np.float32)
        for f in fields(Features)
        if f.name != "invalid"
    }
    listed = [f"{path.name}: {reasons[path.name]}" for path in files if path.name in reasons]
    features = Features(**arrays, invalid=np.array(listed, dtype=str))
    save_npz(
        cache,
        stamp=np.array(stamp),
        **{f.name: getattr(features, f.name) for f in fields(Features)},
    )
    return features


def _measured(
    jobs: list[tuple[int, int]],
    pictures: list[Picture],
    prompts: list[str],
    extractor: Extractor,
    text: np.ndarray,
    text2: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Return one row of every array of `Features` for each picture."""
    stack = np.stack([picture.pixels for picture in pictures])
    which = np.array([p for p, _ in jobs])
    unknown = np.full((len(jobs), 2), np.nan, np.float32)
    arrays = extractor.arrays(stack)
    if extractor.second and text2 is not None:
        clip2 = (unit(extractor.second.images(stack)) * unit(text2)[which]).sum(1)
    else:
        clip2 = unknown[:, 0]
    captions = [prompts[p] for p in which]
    return arrays | {
        "prompt": which,
        "seed": np.array([s for _, s in jobs]),
        "clip": (arrays["embedding"] * unit(text)[which]).sum(1),
        "clip2": clip2,
        "checks": extractor.checker.verdicts(stack, captions) if extractor.checker else unknown,
        "latent_std": np.array([picture.latent_std for picture in pictures], np.float32),
    }
