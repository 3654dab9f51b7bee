"""Compare arms at matched guidance: FID at equal CLIP, and CLIP at equal FID, along their fronts.

The same guidance scale is not the same guidance in two samplers, so a comparison at equal scale
says little. Each arm is a polyline through its scales in the plane (CLIP, FID), straight between
neighbouring scales and never extended. Where guidance is weak FID often falls as CLIP rises, and
where it is strong both get worse; nobody would choose such a scale. So an arm is read by what it
*attains*:

    FID at CLIP = c     the lowest FID on its polyline where CLIP is at least c
    CLIP at FID = f     the highest CLIP on its polyline where FID is at most f

On the part between its lowest FID and its highest CLIP, the front, this is plain interpolation.
The headline is the mean difference of two fronts over the range that they have in common (the area
between them over its width), from the later start to the earlier end; should one lie wholly beyond
the other, it is the difference at the earlier end. Levels spread over the focus arm's front follow.

In each bootstrap resample all arms see the same prompts, and range, levels and readings are made
again from the resampled polylines by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from eval.statistics import difference, judge

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the common range, where levels are placed
PIECES = 8  # straight ones that a smooth curve between two scales is read as
STEPS = 40  # levels that the mean over a common range is taken at
LOST = 0.1  # a level that this share of the resamples cannot reach is out of range
OUT = "out of range"
NO_FID = "no FID"  # of a run without a reference: there are no fronts


@dataclass(frozen=True)
class Curve:
    """One arm over S ≥ 1 scales, ordered by `omega`; draws are (B, S) with the same resamples of
    `prompts` prompts."""

    omega: np.ndarray
    clip: np.ndarray
    fid: np.ndarray
    clip_draws: np.ndarray
    fid_draws: np.ndarray
    prompts: int


def attained(need: np.ndarray, cost: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the lowest `cost` on polylines where `need` ≥ `level`; NaN where it never is.

    need, cost  (B, S), the corners of one polyline per row
    level       (B, L)
    returns     (B, L)

    Along a straight piece the lowest cost is at an end that has the level, or where it is crossed.
    """
    corner = np.where(need[:, None] >= level[..., None], cost[:, None], np.inf)
    best = corner.min(-1)
    n0, n1 = need[:, None, :-1], need[:, None, 1:]
    c0, c1 = cost[:, None, :-1], cost[:, None, 1:]
    at = level[..., None]
    crosses = (n0 < at) != (n1 < at)
    share = (at - n0) / np.where(crosses, n1 - n0, 1.0)
    crossing = np.where(crosses, c0 + share * (c1 - c0), np.inf)
    best = np.minimum(best, crossing.min(-1, initial=np.inf))
    return np.where(np.isinf(best), np.nan, best)


def between(omega: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values (…, S) at S scales with `PIECES` − 1 more between neighbours: (…, S′).

    Piecewise cubic in ln ω by modified Akima interpolation (Akima 1970; scipy's "makima"), whose
    slopes are local; straight through two scales. Scales that coincide are left as they are.
    """
    at = np.log(omega)
    if len(at) < 2 or (np.diff(at) <= 0).any():
        return values
    places = np.interp(np.arange((len(at) - 1) * PIECES + 1) / PIECES, np.arange(len(at)), at)
    return Akima1DInterpolator(at, values, axis=-1, method="makima")(places)


def straight(curve: Curve) -> tuple[float, float] | None:
    """Return the two strengths ω between which a front is one straight piece, else None.

    Such a front says least of what an arm attains: a bent one lies below its chord.
    """
    first, last = int(np.argmin(curve.fid)), int(np.argmax(curve.clip))
    if last != first + 1:
        return None
    return float(curve.omega[first]), float(curve.omega[last])


@dataclass(frozen=True)
class _Front:
    """A curve turned so that more `need` and less `cost` are better; row 0 is the point estimate.

    need, cost  (1 + B, S)
    """

    need: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(cls, curve: Curve, at: str) -> _Front:
        clip = np.concatenate([curve.clip[None], curve.clip_draws])
        fid = np.concatenate([curve.fid[None], curve.fid_draws])
        return cls(clip, fid) if at == "clip" else cls(-fid, -clip)

    def smooth(self, omega: np.ndarray) -> _Front:
        """The point estimate alone, as a smooth curve through its scales."""
        return _Front(between(omega, self.need[:1]), between(omega, self.cost[:1]))

    @property
    def start(self) -> np.ndarray:
        """`need` where the point estimate's cost is lowest, (1 + B,): below it nothing is traded.

        The same corner in all resamples, so that the start moves smoothly with the data.
        """
        return self.need[:, np.argmin(self.cost[0])]

    @property
    def end(self) -> np.ndarray:
        return self.need.max(1)


def _natural(need: float, at: str) -> float:
    """Turn a value of `need` back into a CLIP score or FID."""
    return float(need) if at == "clip" else -float(need)


def _spread(low: np.ndarray, high: np.ndarray, fractions) -> np.ndarray:
    """Return levels (1 + B, L) between low and high; all at `high` where that is below low."""
    low = np.minimum(low, high)[:, None]
    return low + np.asarray(fractions) * (high[:, None] - low)


def _mean_gap(own: _Front, front: _Front, at: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Return own − front over their common range, (1 + B,), and the point estimate's range."""
    low, high = np.maximum(own.start, front.start), np.minimum(own.end, front.end)
    level = _spread(low, high, (np.arange(STEPS) + 0.5) / STEPS)
    gap = attained(own.need, own.cost, level) - attained(front.need, front.cost, level)
    return (gap if at == "clip" else -gap).mean(1), (low[0], high[0])


def compare_fronts(
    curves: Mapping[str, Curve], focus: str, at: str, other: Mapping[str, dict]
) -> dict[str, dict]:
    """Return focus − arm, averaged over the common range of both fronts, for every other arm.

    at     "clip": FID at equal CLIP, lower is better; "fid": CLIP at equal FID, higher is better
    other  arms that are not in `curves` → {"verdict": why}; kept, and no part of Holm's family
    A comparison holds difference, interval, p, p_holm, verdict and `range`, in CLIP or FID; and
    `smooth`, what the difference is of smooth curves through the same points: how much of it may be
    due to straight pieces, which lie above a bent front.
    """
    fronts = {arm: _Front.of(curve, at) for arm, curve in curves.items()}
    family: dict[str, dict] = {}
    if focus in fronts:
        own = fronts[focus]
        for arm, front in fronts.items():
            if arm == focus:
                continue
            gap, (low, high) = _mean_gap(own, front, at)
            ends = sorted(_natural(x, at) for x in (min(low, high), high))
            found = difference(gap[0], gap[1:], curves[focus].prompts)
            bent = (f.smooth(curves[a].omega) for f, a in ((own, focus), (front, arm)))
            (smooth,), _ = _mean_gap(*bent, at)
            family[arm] = found | {"range": ends, "smooth": float(smooth)}
    return judge({**family, **other}, at == "clip")


def levels(curves: Mapping[str, Curve], focus: str, at: str) -> np.ndarray:
    """Return levels (1 + B, L) of `need` on the focus arm's front, where most arms can follow.

    The front's end is drawn in to each other arm's end in turn, the farthest first, unless less
    than half would remain: one arm that lives elsewhere must not spoil the comparison with the
    rest, and is out of range instead. L = 0 when the focus arm's front is a single point.
    """
    fronts = {arm: _Front.of(curve, at) for arm, curve in curves.items()}
    own = fronts.pop(focus)
    low, high = own.start, own.end
    least = low[0] + (high[0] - low[0]) / 2
    for front in fronts.values():
        if front.end[0] >= least:
            high = np.minimum(high, front.end)
    return _spread(low, high, FRACTIONS if high[0] > low[0] else ())


def matched(
    curves: Mapping[str, Curve], focus: str, at: str, other: Mapping[str, dict]
) -> list[dict]:
    """Compare the focus arm with every other at several levels of CLIP or of FID.

    at, other  as in `compare_fronts`
    Returns one entry per level, in rising order: {level, values: {arm: y or None}, comparisons:
    {arm: {...}}}, where a comparison holds difference, interval, p, p_holm and verdict, or the
    verdict "out of range". Holm's family are the arms at one level.
    """
    if focus not in curves:
        return []
    placed = levels(curves, focus, at)
    sign = 1 if at == "clip" else -1
    read = {}
    for arm, curve in curves.items():
        front = _Front.of(curve, at)
        read[arm] = sign * attained(front.need, front.cost, placed)
    table = []
    for column in range(placed.shape[1])[::sign]:
        rows = {arm: values[:, column] for arm, values in read.items()}
        known = {
            arm: not np.isnan(row[0]) and np.isnan(row[1:]).mean() <= LOST
            for arm, row in rows.items()
        }
        family = {
            arm: difference(
                rows[focus][0] - row[0], rows[focus][1:] - row[1:], curves[focus].prompts
            )
            if known[arm] and known[focus]
            else {"verdict": OUT}
            for arm, row in rows.items()
            if arm != focus
        }
        table.append({
            "level": _natural(placed[0, column], at),
            "values": {arm: float(row[0]) if known[arm] else None for arm, row in rows.items()},
            "comparisons": judge({**family, **other}, at == "clip"),
        })  # fmt: skip
    return table
