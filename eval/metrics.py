"""Fréchet distance between sets of features: FID, its influence per image, FID∞, and its floor.

All arithmetic is float64. Nothing here knows about images or networks: arrays in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

SUBSETS = 15  # sizes that FID∞ is extrapolated from, as in Chong & Forsyth
REPEATS = 2  # random subsets of each size


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and unbiased covariance (d, d) of `n` feature vectors."""

    n: int
    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Statistics:
        """Summarise features (n, d); ValueError below two rows, which have no covariance."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features of shape {features.shape}: FID needs (n, d) with n ≥ 2")
        return cls(len(features), features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance, (d, d)."""
        values, vectors = np.linalg.eigh(self.cov)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet(a: Statistics, b: Statistics) -> float:
    """Return |μ_a − μ_b|² + tr(S_a + S_b − 2 (S_a S_b)^{1/2}), in squared feature units, ≥ 0.

    The last trace is the sum of the square roots of the eigenvalues of the symmetric matrix
    S_b^{1/2} S_a S_b^{1/2}: no matrix square root of a product, hence no imaginary part
    (Heusel et al. 2017, arXiv:1706.08500, Eq. 6).
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features have {a.mean.size} and {b.mean.size} dimensions; "
            "both sides must come from the same feature extractor"
        )
    cross = np.sqrt(np.linalg.eigvalsh(b.root @ a.cov @ b.root).clip(0)).sum()
    gap = a.mean - b.mean
    return max(0.0, float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2 * cross))


def _against(features: np.ndarray, reference: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Return x = features − μ_ref (n, d) and x S_ref^{1/2} (n, d)."""
    x = np.asarray(features, np.float64) - reference.mean
    return x, x @ reference.root


def _value(x: np.ndarray, y: np.ndarray, reference: Statistics) -> float:
    """Return the distance of the images behind `_against`, through the smaller eigenproblem.

    The non-zero eigenvalues of the (d, d) covariance are those of the (n, n) Gram matrix.
    """
    n, d = y.shape
    gap, c = x.mean(0), y - y.mean(0)
    product = torch.from_numpy(c @ c.T if n < d else c.T @ c)
    roots = torch.linalg.eigvalsh(product).clamp_min(0).sqrt().sum().item()
    spread = ((x * x).sum() - n * gap @ gap) / (n - 1) + np.trace(reference.cov)
    return max(0.0, float(gap @ gap + spread - 2 * roots / (n - 1) ** 0.5))


def frechet_of(features: np.ndarray, reference: Statistics) -> float:
    """Return `frechet(Statistics.of(features), reference)` for n images, fast also when n < d."""
    return _value(*_against(features, reference), reference)


def frechet_influence(features: np.ndarray, reference: Statistics) -> tuple[float, np.ndarray]:
    """Return FID and its derivative (n,) by the weight of each image (all weights are 1).

    features  (n, d), n ≥ 2

    With weights w_i the distance is f(Σ w_i, Σ w_i x_i, Σ w_i x_i x_iᵀ); with c_i = x_i − mean,
    y_i = S_ref^{1/2} c_i and M the covariance of y,

        ∂f/∂w_i = 2 (mean − μ_ref)·c_i / n
                  + (|c_i|² − tr S − y_iᵀ M^{-1/2} y_i + tr M^{1/2}) / (n − 1).

    This is the infinitesimal jackknife (Efron 1982, ch. 6); it costs one eigenproblem, of the
    covariance when n > d, else of the Gram matrix. `eval.cells` draws its bootstrap through it.
    """
    x, y = _against(features, reference)
    gap, y = x.mean(0), y - y.mean(0)
    c = x - gap
    n, d = y.shape
    if n > d:
        values, vectors = torch.linalg.eigh(torch.from_numpy(y.T @ y / (n - 1)))
        roots = values.clamp_min(0).sqrt().numpy()
        seen = roots > 1e-9 * roots[-1]
        mahalanobis = ((y @ vectors.numpy()[:, seen]) ** 2 / roots[seen]).sum(1)
    else:  # y_iᵀ M^{-1/2} y_i = √(n − 1) (Gram^{1/2})_ii
        values, vectors = torch.linalg.eigh(torch.from_numpy(y @ y.T))
        roots = values.clamp_min(0).sqrt().numpy()
        mahalanobis = (n - 1) ** 0.5 * (vectors.numpy() ** 2 @ roots)
        roots = roots / (n - 1) ** 0.5
    length = (c * c).sum(1)
    trace, cross = length.sum() / (n - 1), roots.sum()
    value = gap @ gap + trace + np.trace(reference.cov) - 2 * cross
    slope = 2 * (c @ gap) / n + (length - trace - mahalanobis + cross) / (n - 1)
    return max(0.0, float(value)), slope


def frechet_infinity(features: np.ndarray, reference: Statistics) -> float | None:
    """Return FID extrapolated to infinitely many images (Chong & Forsyth 2020, arXiv:1911.07023).

    The intercept of a least-squares line of FID over 1/N, for 15 sizes N evenly spaced up to n,
    each the mean over 2 subsets from fixed random numbers (the same for every arm of equal n).
    The bias is proportional to 1/N only once N is well above the number of dimensions d: None
    below n = 4d, and the smallest subset has max(2d, n/5) images. May be slightly negative.
    Takes away the bias of few images, not that of few prompts.
    """
    n, d = features.shape
    if n < max(4 * d, 10):
        return None
    x, y = _against(features, reference)
    sizes = np.linspace(max(2 * d, n // 5), n, SUBSETS).astype(int)
    means = []
    for size in sizes:
        scores = []
        for repeat in range(REPEATS if size < n else 1):
            rows = np.random.default_rng((repeat, size)).permutation(n)[:size]
            scores.append(_value(x[rows], y[rows], reference))
        means.append(np.mean(scores))
    return float(np.polyfit(1 / sizes, means, 1)[1])


def frechet_floor(features: np.ndarray, n: int, repeats: int = 3) -> float | None:
    """Return about what `n` more pictures like the reference's would score: FID's bias.

    Measured as the mean FID between n random reference features and the rest of them, and taken
    to the whole reference, since the bias goes as 1/n + 1/m in both sizes (arXiv:1911.07023). A
    perfect sampler scores this where the reference shows what the prompts ask for. None when fewer
    than `n` + 2 features are there.
    """
    size = len(features)
    if n < 2 or size < n + 2:
        return None
    scores = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(size)
        rest = Statistics.of(features[order[n:]])
        scores.append(frechet_of(features[order[:n]], rest))
    return float(np.mean(scores)) * (1 / n + 1 / size) / (1 / n + 1 / (size - n))
