"""Compare arms at matched guidance: FID where CLIP is equal, and CLIP where FID is equal.

The same guidance scale is not the same guidance in two samplers, so a comparison at equal scale
says little. Each arm is a curve through its scales in the plane (CLIP, FID); we walk it from weak
to strong guidance, up to its highest CLIP, and read it off by linear interpolation, never beyond
its ends. In each bootstrap resample all arms see the same prompts, the curves are read again, and
the level moves by what the redrawn prompts shift the measure on average (hard prompts lower every
arm), so that a resample asks the same question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.statistics import difference, holm

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the common range, where levels are placed
LOST = 0.1  # a level that this share of the resamples cannot reach is out of range
OUT = "out of range"


@dataclass(frozen=True)
class Curve:
    """One arm over S scales, ordered by `omega`; draws are (B, S) with the same resamples."""

    omega: np.ndarray
    clip: np.ndarray
    fid: np.ndarray
    clip_draws: np.ndarray
    fid_draws: np.ndarray

    def rising(self) -> Curve:
        """Return the part from the weakest guidance up to the highest CLIP."""
        end = int(np.argmax(self.clip)) + 1
        return Curve(
            self.omega[:end],
            self.clip[:end],
            self.fid[:end],
            self.clip_draws[:, :end],
            self.fid_draws[:, :end],
        )


def read_off(x: np.ndarray, y: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return y where the polylines (x, y) last cross `level` upwards in x; NaN where they never do.

    x, y   (B, S), one polyline per row, not necessarily monotone
    level  (B,)

    The last upward crossing is the strongest guidance that has this value: on a U-shaped FID it
    is the rising branch, the one with the higher CLIP.
    """
    level = level[:, None]
    crosses = (x[:, :-1] <= level) & (level <= x[:, 1:]) & (x[:, :-1] < x[:, 1:])
    out = np.full(len(x), np.nan)
    rows = np.flatnonzero(crosses.any(1))
    if not rows.size:
        return out
    at = crosses.shape[1] - 1 - np.argmax(crosses[rows, ::-1], axis=1)
    x0, x1 = x[rows, at], x[rows, at + 1]
    share = (level[rows, 0] - x0) / (x1 - x0)
    out[rows] = y[rows, at] + share * (y[rows, at + 1] - y[rows, at])
    return out


def _axes(curve: Curve, matched: str):
    """Return (x, y, x draws, y draws), where x is what is held equal."""
    if matched == "clip":
        return curve.clip, curve.fid, curve.clip_draws, curve.fid_draws
    return curve.fid, curve.clip, curve.fid_draws, curve.clip_draws


def _range(curve: Curve, matched: str) -> tuple[float, float]:
    """Return the values of x that the upward part of a curve passes through."""
    x = _axes(curve, matched)[0]
    return (float(x.min()), float(x.max())) if matched == "clip" else (float(x.min()), float(x[-1]))


def levels(curves: Mapping[str, Curve], focus: str, matched: str) -> list[float]:
    """Place levels where as many arms as possible can be compared with the focus arm.

    The focus arm's range is narrowed to each other arm's in turn, the best overlap first, unless
    less than half of it would remain: one arm that lives elsewhere must not spoil the comparison
    with the rest, and is out of range instead.
    """
    start, end = low, high = _range(curves[focus], matched)
    ranges = [_range(curve, matched) for curve in curves.values()]
    for a, b in sorted(ranges, key=lambda r: max(r[0], start) - min(r[1], end)):
        if min(b, high) - max(a, low) >= (end - start) / 2:
            low, high = max(a, low), min(b, high)
    return [low + f * (high - low) for f in FRACTIONS] if low < high else []


def matched(curves: Mapping[str, Curve], focus: str, at: str) -> list[dict]:
    """Compare the focus arm with every other at equal `at`, "clip" (then FID) or "fid" (then CLIP).

    curves  arm → Curve; arms with fewer than two points on their rising part are out of range
    Returns one entry per level: {level, values: {arm: y or None}, comparisons: {arm: {...}}},
    where a comparison holds difference, interval, p, p_holm and verdict, or verdict "out of range".
    """
    rising = {arm: curve.rising() for arm, curve in curves.items()}
    usable = {arm: curve for arm, curve in rising.items() if len(curve.omega) > 1}
    if focus not in usable:
        return []
    axes = {arm: _axes(curve, at) for arm, curve in usable.items()}
    moves = np.mean([draws.mean(1) - x.mean() for x, _, draws, _ in axes.values()], axis=0)
    table = []
    for level in levels(usable, focus, at):
        points, draws = {}, {}
        for arm, (x, y, x_draws, y_draws) in axes.items():
            point = float(read_off(x[None], y[None], np.array([level]))[0])
            draw = read_off(x_draws, y_draws, level + moves)
            if not np.isnan(point) and np.isnan(draw).mean() <= LOST:
                points[arm], draws[arm] = point, draw
        comparisons = {}
        for arm in curves:
            if arm == focus:
                continue
            comparisons[arm] = {"verdict": OUT}
            if arm in points and focus in points:
                comparisons[arm] = difference(
                    points[focus] - points[arm], draws[focus] - draws[arm], at == "clip"
                )
        compared = [arm for arm in comparisons if "p" in comparisons[arm]]
        for arm, p in zip(compared, holm([comparisons[a]["p"] for a in compared]), strict=True):
            comparisons[arm]["p_holm"] = p
        values = {arm: points.get(arm) for arm in curves}
        table.append({"level": level, "values": values, "comparisons": comparisons})
    return table


def summarise(tables: list[dict], baseline: str) -> str:
    """Condense the verdicts against one baseline over all levels into one word.

    "better" or "worse" when some level says so and none the opposite; "mixed" when levels
    contradict each other; "out of range" when no level could be compared.
    """
    words = {entry["comparisons"][baseline]["verdict"] for entry in tables} - {OUT}
    if {"better", "worse"} <= words:
        return "mixed"
    for word in ("better", "worse", "not distinguishable"):
        if word in words:
            return word
    return OUT
