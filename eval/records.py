"""Keep what a run finds out about its images, so that no two processes write one file.

    invalid/<arm key>/<batch>.json   file -> reason: images of that batch that cannot be scored
    timing.json, timing-<rank>.json  arm key -> what its drawing cost in that process

A batch is drawn by one process, so that its reasons do not depend on how a run was shared out or
interrupted. Readers merge: `invalid` and `costs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.folder import read_json, write_json
from eval.reading import SAME

INVALID = "invalid"


def rank_file(folder: Path, stem: str, rank: int) -> Path:
    """Return a process's own file: `stem.json` of rank 0, `stem-<rank>.json` of the others."""
    return folder / (f"{stem}-{rank}.json" if rank else f"{stem}.json")


class Records:
    """The records that one process writes.

    rank  of the process in its launch
    """

    def __init__(self, folder: Path, rank: int = 0):
        self._folder, self._timing_path = folder, rank_file(folder, "timing", rank)
        self._timing = read_json(self._timing_path)

    def reasons(self, key: str, batch: int) -> dict[str, str]:
        """Return file → reason of one batch; ValueError when the record is damaged."""
        return _reasons(self._part(key, batch))

    def replace(self, key: str, batch: int, reasons: Mapping[str, str]) -> None:
        """Forget what was recorded about a batch of an arm, and save `reasons`."""
        if reasons:
            write_json(self._part(key, batch), dict(reasons))
        else:
            self._part(key, batch).unlink(missing_ok=True)

    def time(
        self, key: str, images: int, seconds: float, at_once: int, peak_bytes: int | None = None
    ) -> None:
        """Add one batch to an arm's cost and save.

        at_once     images in one call of the network, at most
        peak_bytes  of device memory, where the device tells
        """
        own = {"images": images, "seconds": seconds, "at_once": [at_once], "peak_bytes": peak_bytes}
        self._timing[key] = merged([self._timing.get(key), own])
        write_json(self._timing_path, self._timing)

    def _part(self, key: str, batch: int) -> Path:
        return self._folder / INVALID / key / f"{batch:04d}.json"


def invalid(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return arm key → [{"file", "reason"}], both in order: all images that cannot be scored."""
    found: dict[str, dict[str, str]] = {}
    for part in (folder / INVALID).glob("*/*.json"):
        found.setdefault(part.parent.name, {}).update(_reasons(part))
    return {
        key: [{"file": file, "reason": reason} for file, reason in sorted(reasons.items())]
        for key, reasons in sorted(found.items())
        if reasons
    }


def summary(folder: Path) -> list[str]:
    """Say how many images of each arm are invalid and why, one line per arm."""
    lines = []
    for key, entries in invalid(folder).items():
        reasons = [
            SAME + " another" if e["reason"].startswith(SAME) else e["reason"] for e in entries
        ]
        counts = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons))
        lines.append(f"{key}: {counts}")
    return lines


def costs(folder: Path) -> dict[str, dict]:
    """Return what drawing cost by arm key, over all processes.

    images, seconds  drawn, and how long that took: sampling and decoding, without the writing
    at_once          sizes of the batches that were drawn together, of which a short memory makes
                     more than one
    peak_bytes       highest use of device memory, or None
    """
    found: dict[str, list] = {}
    for path in sorted(folder.glob("timing*.json")):
        for key, cost in read_json(path).items():
            found.setdefault(key, []).append(cost)
    return {key: merged(parts) for key, parts in found.items()}


def seconds_per_image(folder: Path) -> dict[str, float]:
    """Return the time of sampling and decoding one image by arm key."""
    return {key: round(c["seconds"] / c["images"], 5) for key, c in costs(folder).items()}


def merged(parts: Sequence[dict | None]) -> dict:
    """Add up costs."""
    known = [p for p in parts if p is not None]
    peaks = [p["peak_bytes"] for p in known if p["peak_bytes"]]
    return {
        "images": sum(p["images"] for p in known),
        "seconds": round(sum(p["seconds"] for p in known), 4),
        "at_once": sorted({n for p in known for n in p["at_once"]}, reverse=True),
        "peak_bytes": max(peaks, default=None),
    }


def _reasons(path: Path) -> dict[str, str]:
    reasons = read_json(path)
    if not all(isinstance(reason, str) for reason in reasons.values()):
        raise ValueError(f"{path} holds no reasons; delete it and run again")
    return reasons
