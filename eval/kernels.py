"""Kernel distances between sets of features: KID, and CMMD on CLIP embeddings.

All arithmetic is float64. Both are unbiased squared MMDs over all rows, not over random subsets,
so no random numbers enter; either may be slightly negative.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ROWS = 1000  # of the kernel matrix held at once
SIGMA = 10.0  # CMMD's bandwidth, on embeddings of length 1
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return KID's kernel (⟨x, y⟩/d + 1)³, (n, m) (Bińkowski et al. 2018, arXiv:1801.01401)."""
    value = x @ y.T
    value /= x.shape[1]
    value += 1
    return value * value * value


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return CMMD's kernel exp(−|x − y|²/(2σ²)), σ = 10, (n, m)."""
    value = x @ y.T
    value -= (x * x).sum(1)[:, None] / 2
    value -= (y * y).sum(1)[None, :] / 2
    value /= SIGMA**2
    return np.exp(value, out=value)


def within(kernel: Kernel, x: np.ndarray) -> float:
    """Return the mean of a kernel over ordered pairs of different rows of x (n, d)."""
    x, total = np.asarray(x, np.float64), 0.0
    for i in range(0, len(x), ROWS):
        values = kernel(x[i : i + ROWS], x)
        total += float(values.sum() - np.trace(values[:, i:]))
    return total / (len(x) * (len(x) - 1))


def _mmd(kernel: Kernel, name: str, x, y, within_y: float | None) -> float:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{name} of {len(x)} and {len(y)} features: each side needs at least 2")
    within_y = within(kernel, y) if within_y is None else within_y
    across = sum(float(kernel(x[i : i + ROWS], y).sum()) for i in range(0, len(x), ROWS))
    return within(kernel, x) + within_y - 2 * across / (len(x) * len(y))


def kid(x: np.ndarray, y: np.ndarray, within_y: float | None = None) -> float:
    """Return the squared MMD of features x (n, d) and y (m, d) with the cubic kernel.

    within_y  `within(cubic, y)`, which saves computing y's own part again
    """
    return _mmd(cubic, "KID", x, y, within_y)


def cmmd(x: np.ndarray, y: np.ndarray, within_y: float | None = None) -> float:
    """Return 1000 × the squared MMD of CLIP embeddings x (n, d), y (m, d) of length 1.

    Jayasumana et al. 2024, arXiv:2401.09603: Gaussian kernel with σ = 10. In its unbiased form;
    the authors' code keeps the diagonal, which adds about 1000 (1/n + 1/m)(1 − mean kernel).
    within_y  `within(gaussian, y)`, which saves computing y's own part again
    """
    return 1000 * _mmd(gaussian, "CMMD", x, y, within_y)
