"""Turn the features of each arm and scale into numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.features import Features
from eval.kernels import cmmd, kid
from eval.metrics import frechet_floor, frechet_infinity, frechet_influence
from eval.neighbours import precision_recall
from eval.reference_set import Reference
from eval.statistics import interval, linear_draws, resampled_mean

NUMBERS = (
    *("clip", "clip_half_interval", "clip_interval", "clip2", "fid", "fid_interval", "fid_floor"),
    *("fid_infinity", "kid", "cmmd", "precision", "recall", "all_right", "pairs_right"),
    *("saturation", "contrast", "latent_std"),
)


@dataclass(frozen=True)
class Cell:
    """One arm at one scale: `entry` as in results.json, and draws (B,) by measure."""

    entry: dict
    features: Features
    draws: dict[str, np.ndarray]

    @property
    def prompts(self) -> int:
        """How many prompts have images in it."""
        return len(np.unique(self.features.prompt))


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
    floors   `frechet_floor` by number of images, filled as needed
    A cell with any invalid image is scored on the others, but is not `valid`.
    """
    n = len(features.clip)
    entry: dict = {k: arm[k] for k in ("arm", "sampler", "scale", "omega", "guidance")}
    entry |= {"n": n, "invalid": len(features.invalid), "invalid_files": features.invalid.tolist()}
    entry["approximation"] = arm.get("approximation")
    entry |= {"missing": features.missing, "duplicates": features.duplicates}
    entry |= {"valid": n > 0 and not len(features.invalid), **dict.fromkeys(NUMBERS)}
    draws: dict[str, np.ndarray] = {}
    if not n:
        return Cell(entry, features, draws)
    columns = {
        "clip": 100.0 * features.clip.astype(np.float64),
        "clip2": 100.0 * features.clip2.astype(np.float64),
        "all_right": features.checks[:, 0].astype(np.float64),
        "pairs_right": features.checks[:, 1].astype(np.float64),
    }
    for name, values in columns.items():
        if not np.isnan(values).all():
            entry[name] = float(np.nanmean(values))
            draws[name] = _mean_draws(features, values, weights)
    low, high = interval(draws["clip"])
    entry |= {"clip_interval": [low, high], "clip_half_interval": (high - low) / 2}
    entry["saturation"], entry["contrast"] = features.looks.astype(np.float64).mean(0).tolist()
    if not np.isnan(features.latent_std).all():
        entry["latent_std"] = float(np.nanmean(features.latent_std.astype(np.float64)))
    if reference and n > 1:
        _distances(entry, draws, features, weights, reference)
        if reference.features is not None:
            if n not in floors:
                floors[n] = frechet_floor(reference.features, n)
            entry["fid_floor"] = floors[n]
    return Cell(entry, features, draws)


def _distances(entry, draws, features: Features, weights, reference: Reference) -> None:
    """Add FID with its draws, and what else compares with the reference as far as it can."""
    d = features.fid.shape[1]
    if reference.statistics.mean.size != d:
        raise ValueError(
            f"the reference has {reference.statistics.mean.size} feature dimensions, the images "
            f"{d}; build it for this model: 'python -m eval reference'"
        )
    entry["fid"], slope = frechet_influence(features.fid, reference.statistics)
    by_weight = np.bincount(features.prompt.astype(int), slope, minlength=weights.shape[1])
    draws["fid"] = linear_draws(entry["fid"], by_weight, weights)
    entry["fid_interval"] = list(interval(draws["fid"]))
    entry["fid_infinity"] = frechet_infinity(features.fid, reference.statistics)
    if reference.features is not None:
        entry["kid"] = kid(features.fid, reference.features, reference.kernel)
        found = precision_recall(features.fid, reference.features, reference.radii)
        entry["precision"], entry["recall"] = found or (None, None)
    if reference.embedding is not None:
        kernel = reference.embedding_kernel
        entry["cmmd"] = cmmd(features.embedding, reference.embedding, kernel)


def notes(cells: Mapping[str, Cell], problems: Mapping[str, str]) -> list[str]:
    """Say, one line each, what a reader of the table must know."""
    lines = [f"{name} missing: {reason}" for name, reason in sorted(problems.items())]
    entries = {key: cell.entry for key, cell in cells.items()}
    missing = sum(entry["missing"] for entry in entries.values())
    if missing:
        expected = sum(entry["n"] + entry["invalid"] for entry in entries.values())
        arms = dict.fromkeys(entry["arm"] for entry in entries.values() if entry["missing"])
        lines.append(
            f"{missing} of {expected} images are missing, of {', '.join(arms)}: the run is not "
            "finished, and these arms are invalid until it is"
        )
    bad = {key: e["invalid"] - e["missing"] for key, e in entries.items()}
    bad = {key: count for key, count in bad.items() if count}
    if bad:
        listed = ", ".join(f"{key} ({count})" for key, count in bad.items())
        lines.append(
            f"images that cannot be scored: {listed}; left out of all means, and their arms out "
            "of all comparisons"
        )
    near = {e["arm"]: e["approximation"] for e in entries.values() if e["approximation"]}
    lines += [
        f"{arm} is approximated, no result at this NFE: {found['whole']} of {found['evaluations']} "
        f"evaluations run the whole network, with {found['rows']} UNet rows in all"
        for arm, found in near.items()
    ]
    sizes = [(e["n"], cells[k].features.fid.shape[1]) for k, e in entries.items() if e["fid"]]
    n, d = min(sizes, default=(1, 0))
    if n <= d:
        lines.append(
            f"FID is strongly biased at n = {n} ≤ {d} feature dimensions: compare arms at equal n, "
            "never with published values"
        )
    return lines
