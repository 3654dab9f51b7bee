"""Turn the features of each arm and scale into numbers, and compare arms at equal scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.features import Features
from eval.front import Curve
from eval.metrics import clip_score, frechet_floor, frechet_resampled, kid
from eval.reference import Reference
from eval.statistics import difference, interval, resampled_mean

GRAM_RESAMPLES = 200  # when n < d one resample costs an (n, n) eigenproblem, not a (d, d) one
MEASURES = ("clip", "fid", "all_right")  # compared between arms
NUMBERS = ("clip", "clip_half_interval", "fid", "fid_floor", "kid", "all_right", "pairs_right")


@dataclass(frozen=True)
class Cell:
    """One arm at one scale: `entry` as in results.json, and draws (B,) by measure."""

    entry: dict
    features: Features
    draws: dict[str, np.ndarray]


def by_prompt(features: Features, values: np.ndarray, prompts: int) -> list[np.ndarray]:
    """Split values of images into one array per prompt."""
    return [values[features.prompt == p] for p in range(prompts)]


def _mean_draws(features: Features, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    which = features.prompt[known].astype(int)
    total = np.bincount(which, values[known], minlength=weights.shape[1])
    return resampled_mean(total, np.bincount(which, minlength=weights.shape[1]), weights)


def measure(
    arm: dict,
    features: Features,
    weights: np.ndarray,
    reference: Reference | None,
    floors: dict[int, float | None],
) -> Cell:
    """Score one arm at one scale; what cannot be measured is None.

    arm      its entry in the run's configuration
    weights  (B, P) resamples, the same for all cells
    floors   FID of perfect samples by number of images, filled as needed
    A cell with any invalid image is scored on the others, but is not `valid`.
    """
    n = len(features.clip)
    entry: dict = {k: arm[k] for k in ("arm", "sampler", "scale", "omega", "guidance")}
    entry |= {"n": n, "invalid": len(features.invalid), "invalid_files": features.invalid.tolist()}
    entry |= {"valid": n > 0 and not len(features.invalid), **dict.fromkeys(NUMBERS)}
    draws: dict[str, np.ndarray] = {}
    if not n:
        return Cell(entry, features, draws)
    entry["clip"] = clip_score(features.clip)
    draws["clip"] = _mean_draws(features, 100.0 * features.clip.astype(np.float64), weights)
    low, high = interval(draws["clip"])
    entry["clip_half_interval"] = None if np.isnan(high) else (high - low) / 2
    for column, name in enumerate(("all_right", "pairs_right")):
        checks = features.checks[:, column].astype(np.float64)
        if not np.isnan(checks).all():
            entry[name] = float(np.nanmean(checks))
            draws[name] = _mean_draws(features, checks, weights)
    if reference and n > 1:
        _distances(entry, draws, features, weights, reference)
        if reference.features is not None:
            if n not in floors:
                floors[n] = frechet_floor(reference.features, n)
            entry["fid_floor"] = floors[n]
    return Cell(entry, features, draws)


def _distances(entry, draws, features: Features, weights, reference: Reference) -> None:
    """Add FID with its draws, and KID where the reference has features."""
    d = features.fid.shape[1]
    if reference.statistics.mean.size != d:
        raise ValueError(
            f"the reference has {reference.statistics.mean.size} feature dimensions, the images "
            f"{d}; build it for this model: 'python -m eval reference'"
        )
    groups = by_prompt(features, features.fid, weights.shape[1])
    ones = np.ones((1, len(groups)))
    entry["fid"] = float(frechet_resampled(groups, ones, reference.statistics)[0])
    used = weights if len(features.fid) >= d else weights[:GRAM_RESAMPLES]
    draws["fid"] = frechet_resampled(groups, used, reference.statistics)
    if reference.features is not None:
        entry["kid"] = kid(features.fid, reference.features, reference.kernel)


def curves(cells: Mapping[str, Cell]) -> dict[str, Curve]:
    """Return one curve per arm through its valid cells with CLIP and FID, ordered by omega."""
    by_arm: dict[str, list[Cell]] = {}
    for cell in cells.values():
        if cell.entry["valid"] and cell.entry["fid"] is not None:
            by_arm.setdefault(cell.entry["arm"], []).append(cell)
    count = min((len(c.draws["fid"]) for found in by_arm.values() for c in found), default=0)
    found = {}
    for arm, points in by_arm.items():
        points.sort(key=lambda cell: cell.entry["omega"])
        omega, clip, fid = (
            np.array([c.entry[k] for c in points]) for k in ("omega", "clip", "fid")
        )
        clip_draws, fid_draws = (
            np.stack([c.draws[k][:count] for c in points], axis=1) for k in ("clip", "fid")
        )
        found[arm] = Curve(omega, clip, fid, clip_draws, fid_draws)
    return found


def at_equal_scale(cells: Mapping[str, Cell], focus: str) -> list[dict]:
    """Compare the focus arm with every other at each omega where both are valid."""
    valid = [cell for cell in cells.values() if cell.entry["valid"]]
    own = {round(c.entry["omega"], 3): c for c in valid if c.entry["arm"] == focus}
    table = []
    for cell in valid:
        mate = own.get(round(cell.entry["omega"], 3))
        if cell.entry["arm"] == focus or mate is None:
            continue
        row: dict = {"baseline": cell.entry["arm"], "omega": cell.entry["omega"]}
        for name in MEASURES:
            row[name] = None
            if name in cell.draws and name in mate.draws:
                count = min(len(cell.draws[name]), len(mate.draws[name]))
                point = mate.entry[name] - cell.entry[name]
                draws = mate.draws[name][:count] - cell.draws[name][:count]
                row[name] = difference(point, draws, lower_is_better=name == "fid")
        table.append(row)
    return table


def notes(cells: Mapping[str, Cell], problems: Mapping[str, str]) -> list[str]:
    """Say, one line each, what a reader of the table must know."""
    lines = [f"{name} missing: {reason}" for name, reason in sorted(problems.items())]
    bad = [key for key, cell in cells.items() if not cell.entry["valid"]]
    if bad:
        lines.append(f"invalid or missing images; left out of all comparisons: {', '.join(bad)}")
    sizes = [
        (c.entry["n"], c.features.fid.shape[1])
        for c in cells.values()
        if c.entry["fid"] is not None
    ]
    n, d = min(sizes, default=(1, 0))
    if n <= d:
        lines.append(
            f"FID is strongly biased at n = {n} ≤ {d} feature dimensions: compare arms at equal n, "
            f"never with published values; its intervals use {GRAM_RESAMPLES} resamples at most"
        )
    return lines
