"""Bootstrap over prompts: one set of resamples for all arms, so that differences are paired.

Images of one prompt hang together (the prompt is easy or hard for every arm and seed), so the
unit that is redrawn is the prompt with all of its seeds, never the single image.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def resample_weights(prompts: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Return (resamples, prompts) integer counts: how often each resample drew each prompt.

    Deterministic in `seed`; every arm must be scored with the same weights.
    """
    if prompts < 1 or resamples < 1:
        raise ValueError(
            f"{resamples} resamples of {prompts} prompts: both must be at least 1; "
            "pass --bootstrap 2000 and a prompt file with lines in it"
        )
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)


def resampled_mean(total: np.ndarray, count: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over images in every resample, (B,).

    total, count  (P,) sum of a value over a prompt's images, and how many images it has
    weights       (B, P) from `resample_weights`
    NaN where a resample holds no image at all.
    """
    drawn = weights @ np.asarray(count, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(drawn > 0, weights @ np.asarray(total, np.float64) / drawn, np.nan)


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws (B,), ignoring NaN."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def p_value(draws: np.ndarray) -> float:
    """Return the two-sided bootstrap p-value of "the difference is zero", never below 1/(B+1)."""
    draws = draws[~np.isnan(draws)]
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(draws) + 1))


def holm(p_values: list[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def verdict(low: float, high: float, lower_is_better: bool) -> str:
    """Name what an interval of (focus − baseline) says: better, worse, or not distinguishable."""
    if low <= 0 <= high:
        return "not distinguishable"
    return "better" if (high < 0) == lower_is_better else "worse"


def difference(point: float, draws: np.ndarray, lower_is_better: bool) -> dict:
    """Describe a paired difference focus − baseline: value, 95 % interval, p-value and verdict."""
    low, high = interval(draws)
    return {
        "difference": float(point),
        "interval": [low, high],
        "p": p_value(draws),
        "verdict": verdict(low, high, lower_is_better),
    }
