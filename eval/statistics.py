"""Bootstrap over prompts: one set of resamples for all arms, so that differences are paired.

Images of one prompt hang together (the prompt is easy or hard for every arm and seed), so the
unit that is redrawn is the prompt with all of its seeds, never the single image.

Measured by `python -m benchmarks.coverage` (docs/results/coverage.md, standard error 1 point): on
synthetic data the percentile intervals below hold the truth in 90 to 97 % of the data sets, for
means (CLIP) and, on the draws of `linear_draws`, for FID and what is read off FID–CLIP fronts. Only
where a difference of FID and its derivatives nearly vanish are they wider than need be (99 %).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LEVEL = 0.95
INVALID = "invalid"  # the verdict on an arm with an image that cannot be scored


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


def linear_draws(value: float, slope: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a measure in every resample, (B,), to first order in the resampling weights.

    value    the measure with all weights 1
    slope    (P,) its derivative by the weight of each prompt
    weights  (B, P) from `resample_weights`

    For FID. A resample of P prompts holds about 0.63 P different ones, so its exactly computed FID
    is biased as that of a much smaller set, upwards and unequally over arms and scales: percentile
    and basic intervals of such resamples can miss the truth nearly always (coverage.md, last bed).
    The linear part carries the sampling variance and none of that bias.
    """
    return value + (weights - 1.0) @ slope


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


def least_p(prompts: int) -> float:
    """Return the smallest two-sided p-value that differences of this many prompts can have.

    That of the exact sign test, 2^(1 − P): under the hypothesis of no difference, all of them point
    one way so often. The bootstrap knows no such bound, and of one prompt would tell anything.
    """
    return min(1.0, 2.0 ** (1 - prompts))


def difference(point: float, draws: np.ndarray, prompts: int) -> dict:
    """Describe a paired difference focus − baseline over P prompts: value, interval, p-value."""
    low, high = interval(draws)
    p = max(p_value(draws), least_p(prompts))
    return {"difference": float(point), "interval": [low, high], "p": p}


def judge(family: Mapping[str, dict], lower_is_better: bool) -> dict[str, dict]:
    """Add p_holm and a verdict to each of the differences that are compared together.

    family  arm → `difference`, or {"verdict": …} of an arm that cannot be compared, kept as it is

    The verdict is better or worse where Holm's p-value over the family is below 0.05, else not
    distinguishable: the chance of any wrong word in a family is at most 5 %. The interval is not
    adjusted, so it may exclude 0 where the verdict is not distinguishable.
    """
    compared = [arm for arm, found in family.items() if "p" in found]
    adjusted = dict(zip(compared, holm([family[arm]["p"] for arm in compared]), strict=True))
    judged = {arm: dict(found) for arm, found in family.items()}
    for arm, p in adjusted.items():
        good = (judged[arm]["difference"] < 0) == lower_is_better
        word = "better" if good else "worse"
        judged[arm] |= {"p_holm": p, "verdict": word if p < 1 - LEVEL else "not distinguishable"}
    return judged
