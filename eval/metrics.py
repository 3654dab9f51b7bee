"""Distances between sets of feature vectors: Fréchet (FID), kernel (KID), and the CLIP score.

All arithmetic is float64. Nothing here knows about images or networks: arrays in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

CHUNK = 128  # resamples whose covariance matrices are held at once


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


def frechet_resampled(
    groups: Sequence[np.ndarray], weights: np.ndarray, reference: Statistics
) -> np.ndarray:
    """Return the Fréchet distance of each weighted union of groups to the reference, (B,).

    groups   P arrays (n_p, d), one per prompt, n_p ≥ 0; a union takes a group whole
    weights  (B, P) non-negative: how often resample b takes group p

    Cost per resample: with n ≥ d features, a (d, d) eigenproblem on sums kept per group; with
    n < d, an (n, n) one on the Gram matrix, whose non-zero eigenvalues are the same. A resample
    of fewer than two images gives NaN.
    """
    weights = np.asarray(weights, np.float64)
    owner = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    x = np.concatenate([np.asarray(g, np.float64) for g in groups if len(g)]) - reference.mean
    y = x @ reference.root  # the covariance of y is S_ref^{1/2} S S_ref^{1/2}
    cross = _cross_small if len(x) < x.shape[1] else _cross_moments
    onehot = np.zeros((len(groups), len(x)))
    onehot[owner, np.arange(len(x))] = 1
    size = (weights @ onehot.sum(1))[:, None]  # images per resample, with repeats
    scored = size[:, 0] >= 2
    size = size.clip(2)
    mean = weights @ (onehot @ x) / size
    spread = weights @ (onehot @ (x * x).sum(1))  # Σ |x|², about the reference's mean
    gap = (mean * mean).sum(1)
    trace = (spread - size[:, 0] * gap) / (size[:, 0] - 1)
    total = gap + trace + np.trace(reference.cov) - 2 * cross(y, onehot, weights, size)
    return np.where(scored, total.clip(0), np.nan)


def _cross_moments(y, onehot, weights, size) -> np.ndarray:
    """Σ√eig of the weighted covariances of y (n, d), through sums per group."""
    d = y.shape[1]
    counts = onehot.sum(1).astype(int)
    parts = np.split(y, np.cumsum(counts)[:-1])  # rows are ordered by group
    outer = np.stack([p.T @ p for p in parts]).reshape(len(parts), d * d)
    mean = weights @ (onehot @ y) / size
    out = np.empty(len(weights))
    for start in range(0, len(weights), CHUNK):
        rows = slice(start, start + CHUNK)
        n = size[rows, :, None]
        cov = (weights[rows] @ outer).reshape(-1, d, d)
        cov = (cov - n * mean[rows, :, None] * mean[rows, None, :]) / (n - 1)
        eigen = torch.linalg.eigvalsh(torch.from_numpy(cov))
        out[rows] = eigen.clamp_min(0).sqrt().sum(-1).numpy()
    return out


def _cross_small(y, onehot, weights, size) -> np.ndarray:
    """The same from the (n, n) Gram matrix; rows of weight zero are left out."""
    gram = y @ y.T
    out = np.empty(len(weights))
    for b, weight in enumerate(weights @ onehot):
        keep = weight > 0
        w, k, n = weight[keep], gram[np.ix_(keep, keep)], size[b, 0]
        row = k @ w / n  # ⟨y_i, mean⟩
        k = k - row[:, None] - row[None, :] + w @ row / n
        root = np.sqrt(w)
        eigen = torch.linalg.eigvalsh(torch.from_numpy(root[:, None] * k * root[None, :]))
        out[b] = np.sqrt(eigen.clamp_min(0).numpy() / (n - 1)).sum()
    return out


def frechet_floor(features: np.ndarray, n: int, repeats: int = 3) -> float | None:
    """Return the mean FID between `n` random reference features and the rest of them.

    What a perfect sampler would score with n images: FID's bias, not quality. None when fewer
    than `n` + 2 features are there.
    """
    if n < 2 or len(features) < n + 2:
        return None
    scores = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(features))
        rest = Statistics.of(features[order[n:]])
        scores.append(frechet_resampled([features[order[:n]]], np.ones((1, 1)), rest)[0])
    return float(np.mean(scores))


# --- kernel distance ------------------------------------------------------------------------------


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_within(x: np.ndarray) -> float:
    """Return the mean of the cubic kernel over ordered pairs of different rows of x (n, d)."""
    x = np.asarray(x, np.float64)
    total = sum(float(_cubic(x[i : i + 1000], x).sum()) for i in range(0, len(x), 1000))
    own = ((x * x).sum(1) / x.shape[1] + 1) ** 3
    return (total - float(own.sum())) / (len(x) * (len(x) - 1))


def kid(x: np.ndarray, y: np.ndarray, within_y: float | None = None) -> float:
    """Return the unbiased squared MMD of x (n, d) and y (m, d) with kernel (⟨x, y⟩/d + 1)³.

    Bińkowski et al. 2018, arXiv:1801.01401; over all rows, not over random subsets, so that no
    random numbers enter. May be slightly negative. `within_y` saves recomputing y's own part.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"KID of {len(x)} and {len(y)} features: each side needs at least 2")
    within_y = kernel_within(y) if within_y is None else within_y
    return kernel_within(x) + within_y - 2 * float(_cubic(x, y).mean())


def clip_score(cosines: np.ndarray) -> float:
    """Return 100 × the mean image–caption cosine (not 2.5 × as in Hessel et al. 2021)."""
    return 100 * float(np.mean(np.asarray(cosines, np.float64)))
