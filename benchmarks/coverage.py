"""Measure how often the evaluation's 95 % intervals hold the truth, on synthetic data.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --trials 1000 --out docs/results/coverage.md

Every trial draws a new data set as an evaluation would: prompts that are hard or easy for all arms,
several seeds of each, two arms through several guidance strengths, image features with parts that
belong to the prompt, to the start noise (shared by the arms, drawn for each prompt and seed as
`eval run` does, or in one bed for each seed alone) and to the arm alone. FID falls and then rises
with guidance, CLIP rises and then falls. Each data set goes through the evaluation's own code
(`eval.metrics`, `eval.statistics`, `eval.front`). The truth of a CLIP score is that of its
distribution. FID depends on the number of images, so its truth is its expectation at that number,
the mean over all trials; fronts are read off at the true points.

For FID two intervals are shown that are not used: percentile and basic intervals of resamples
whose FID is computed exactly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.front import Curve, compare_fronts, matched
from eval.metrics import Statistics, frechet_influence
from eval.statistics import interval, linear_draws, resample_weights, resampled_mean
from eval.tables import markdown

EXACT = 200  # trials and resamples of the exactly resampled intervals, which cost the most
MIDDLE = 2  # of the five levels
OMEGAS = np.array([1.0, 2.0, 3.5, 5.0, 8.0])


@dataclass(frozen=True)
class Bed:
    """A synthetic evaluation: P prompts × S seeds, d feature dimensions.

    decay  the standard deviation of dimension k is k^−decay; 0 makes FID's bias the largest
    alike  all prompts of a seed have the same start noise, as where the seed alone decides
    """

    prompts: int
    seeds: int
    dimensions: int
    decay: float = 0.7
    alike: bool = False

    @property
    def name(self) -> str:
        n = self.prompts * self.seeds
        shape = f"d = {self.dimensions}, decay {self.decay:g}"
        noise = ", one start noise per seed" if self.alike else ""
        return f"{self.prompts} prompts × {self.seeds} seeds, n = {n}, {shape}{noise}"

    @property
    def spectrum(self) -> np.ndarray:
        """Standard deviations of the reference features, which are independent normals."""
        return np.arange(1.0, self.dimensions + 1) ** -self.decay

    def clip(self, arm: int) -> np.ndarray:
        """Return the true CLIP score at each strength; arm 1 is a little better at each."""
        return 30 - 4 / OMEGAS - 0.05 * OMEGAS + 0.2 * arm

    def draw(self, rng: np.random.Generator) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
        """Yield for each arm its (cosines (P, S), features (P·S, d)) at each strength."""
        p, s, d = self.prompts, self.seeds, self.dimensions
        hard, topic = rng.normal(size=(p, 1)), rng.normal(size=(p, 1, d))
        noise, direction = rng.normal(size=(1 if self.alike else p, s, d)), np.eye(d)[0]
        for arm in range(2):
            taste = 0.5 * rng.normal(size=(p, 1))  # prompts that suit the arm
            cells = []
            for omega in OMEGAS:
                own = 0.8 * noise + 0.6 * rng.normal(size=(p, s, d))
                width = (0.85 + 0.05 * arm + 0.4 / omega) * self.spectrum
                shift = (0.1 + 0.12 * omega) * direction
                x = shift + width * (0.6 * topic + 0.8 * own)
                clip = self.clip(arm)[omega == OMEGAS] + 2 * hard + taste
                cells.append((clip + 0.5 * own[..., 0] + rng.normal(size=(p, s)), x.reshape(-1, d)))
            yield cells


def exact_draws(x: np.ndarray, weights: np.ndarray, reference: Statistics) -> np.ndarray:
    """Return FID of every resample, computed exactly; x (P·S, d) ordered by prompt."""
    p, d = weights.shape[1], x.shape[1]
    y = ((x - reference.mean) @ reference.root).reshape(p, -1, d)
    z = (x - reference.mean).reshape(p, -1, d)
    n = len(x)
    mean_y, mean = (weights @ a.sum(1) / n for a in (y, z))
    outer = np.einsum("psi,psj->pij", y, y).reshape(p, -1)
    cov = (weights @ outer).reshape(-1, d, d) - n * mean_y[:, :, None] * mean_y[:, None, :]
    roots = np.sqrt(np.linalg.eigvalsh(cov / (n - 1)).clip(0)).sum(1)
    gap = (mean * mean).sum(1)
    spread = (weights @ (z * z).sum((1, 2)) - n * gap) / (n - 1)
    return gap + spread + np.trace(reference.cov) - 2 * roots


Found = dict[str, tuple[float, tuple[float, float]]]  # quantity → estimate, interval


def fronts(curves: dict[str, Curve]) -> Found:
    """Read the headline and the middle level off the fronts, in both directions."""
    found = {}
    for at, title in (("clip", "FID at equal CLIP"), ("fid", "CLIP at equal FID")):
        whole = compare_fronts(curves, "ours", at, {})["other"]
        found[f"{title}, mean over both fronts"] = whole["difference"], whole["interval"]
        level = {"difference": np.nan, "interval": [np.nan, np.nan]}  # where it is out of range
        levels = matched(curves, "ours", at, {})
        if len(levels) > MIDDLE:  # ours has a front
            level |= levels[MIDDLE]["comparisons"]["other"]
        found[f"{title}, middle level"] = level["difference"], level["interval"]
    return found


def trial(bed: Bed, rng: np.random.Generator, weights: np.ndarray, exact: np.ndarray | None):
    """Return estimates and intervals by quantity, the points (2, 2, S), and exact intervals."""
    reference = Statistics(0, np.zeros(bed.dimensions), np.diag(bed.spectrum**2))
    count = np.full(bed.prompts, bed.seeds)
    points, draws, features = [], [], []
    for cells in bed.draw(rng):
        clips = [resampled_mean(c.sum(1), count, weights) for c, _ in cells]
        fids = []
        for _, x in cells:
            value, slope = frechet_influence(x, reference)
            slope = slope.reshape(bed.prompts, bed.seeds).sum(1)
            fids.append((value, linear_draws(value, slope, weights)))
        points.append([[c.mean() for c, _ in cells], [value for value, _ in fids]])
        draws.append([clips, [d for _, d in fids]])
        features.append([x for _, x in cells])
    values, draws = np.array(points), np.array(draws)  # (arm, measure, S), (arm, measure, S, B)
    found: Found = {}
    for m, name in enumerate(("CLIP", "FID")):
        found[name] = values[0, m, 2], interval(draws[0, m, 2])
        gap = draws[1, m, 2] - draws[0, m, 2]
        found[f"{name}, arm − arm"] = values[1, m, 2] - values[0, m, 2], interval(gap)
        gap = draws[0, m, 4] - draws[0, m, 0]
        found[f"{name}, strong − weak"] = values[0, m, 4] - values[0, m, 0], interval(gap)
    found |= fronts({
        name: Curve(OMEGAS, *values[arm], *draws[arm].transpose(0, 2, 1), bed.prompts)
        for arm, name in enumerate(("other", "ours"))
    })  # fmt: skip
    others = {}
    if exact is not None:
        theirs, ours = features
        chosen = (theirs[2], ours[2], theirs[4], theirs[0])
        a, b, strong, weak = (exact_draws(x, exact, reference) for x in chosen)
        others = {"FID": interval(a), "FID, arm − arm": interval(b - a)}
        others["FID, strong − weak"] = interval(strong - weak)
    return found, values, others


def truths(bed: Bed, points: np.ndarray) -> dict[str, float]:
    """Return what the intervals should hold; points (trials, arm, measure, S)."""
    true = points.mean(0)
    true[:, 0] = [bed.clip(0), bed.clip(1)]
    found = {}
    for m, name in enumerate(("CLIP", "FID")):
        found[name] = true[0, m, 2]
        found[f"{name}, arm − arm"] = true[1, m, 2] - true[0, m, 2]
        found[f"{name}, strong − weak"] = true[0, m, 4] - true[0, m, 0]
    curves = {
        name: Curve(OMEGAS, *true[arm], true[arm, :1], true[arm, 1:], bed.prompts)
        for arm, name in enumerate(("other", "ours"))
    }
    return found | {name: value for name, (value, _) in fronts(curves).items()}


def coverage(bed: Bed, trials: int, resamples: int, seed: int = 0) -> dict[str, list]:
    """Return quantity → [truth, sd of the estimate, mean half width, shares covered × 3]."""
    weights = resample_weights(bed.prompts, resamples)
    rng = np.random.default_rng(seed)
    compared = EXACT if bed.prompts * bed.seeds > bed.dimensions else 0
    runs = [
        trial(bed, rng, weights, weights[:EXACT] if t < compared else None) for t in range(trials)
    ]
    truth = truths(bed, np.array([points for _, points, _ in runs]))
    table = {}
    for name, true in truth.items():
        value = np.array([found[name][0] for found, _, _ in runs])
        ends = np.array([found[name][1] for found, _, _ in runs])
        row = [true, np.nanstd(value), np.nanmean(np.ptp(ends, 1)) / 2, _share(ends, true)]
        known = [i for i, (_, _, others) in enumerate(runs) if name in others]
        if known:
            theirs = np.array([runs[i][2][name] for i in known])
            basic = 2 * value[known, None] - theirs[:, ::-1]
            row += [_share(theirs, true), _share(basic, true)]
        table[name] = row + [None] * (6 - len(row))
    return table


def _share(ends: np.ndarray, truth: float) -> float:
    ends = ends[~np.isnan(ends[:, 0])]
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


NOTE = """\
What the beds show. Intervals over prompts hold only if each prompt has its own start noise:
where the seed alone decides about it (second bed), the draw of these few noises moves all
prompts alike, and no resample of prompts sees it. FID of exactly computed resamples is out of
its own interval's reach where bias is large (last bed); the linearised draws hold there too. Few
prompts make the intervals of one arm's scores somewhat too narrow, those of differences hardly.
They err to the wide side where a difference of FID and its derivatives are close to zero (FID,
arm − arm, in the last bed): the infinitesimal jackknife's variance is biased upwards there, and
a verdict is then less likely, never more."""


def report(beds: list[Bed], trials: int, resamples: int) -> str:
    """Return the markdown page."""
    header = ["quantity", "truth", "sd of the estimate", "mean half width", "covered"]
    header += ["exact percentile", "exact basic"]
    parts = [
        "# Coverage of the evaluation's intervals",
        f"Synthetic data, {trials} data sets each, {resamples} resamples of the prompts; the last "
        f"two columns, where n > d, on {min(EXACT, trials)} of them with {EXACT} resamples. "
        "Nominal: 95 %. The "
        f"standard error of a share near 95 % is {100 * (0.95 * 0.05 / trials) ** 0.5:.1f} points. "
        "What is simulated, and what is true: `benchmarks/coverage.py`.",
    ]
    for bed in beds:
        rows = []
        for name, row in coverage(bed, trials, resamples).items():
            shares = ["" if share is None else f"{100 * share:.1f} %" for share in row[3:]]
            rows.append([name, *(f"{x:.3f}" for x in row[:3]), *shares])
        parts += [f"## {bed.name}", markdown(header, rows)]
    parts.append(NOTE)
    parts.append(
        f"`python -m benchmarks.coverage --trials {trials} --resamples {resamples}` prints this."
    )
    return "\n\n".join(parts) + "\n"


BEDS = [
    Bed(100, 5, 16),
    Bed(100, 5, 16, alike=True),
    Bed(40, 2, 128),
    Bed(20, 5, 16),
    Bed(100, 5, 32, 0.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000, help="data sets (default 1000)")
    parser.add_argument("--resamples", type=int, default=1000, help="(default 1000)")
    parser.add_argument("--out", type=Path, help="file to write instead of printing")
    args = parser.parse_args()
    text = report(BEDS, args.trials, args.resamples)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
