"""Improved precision and recall: do images fall where references lie, and the other way round."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 3
ROWS = 1000  # of the distance matrix held at once


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return squared Euclidean distances (n, m)."""
    value = x @ y.T
    value *= -2
    value += (x * x).sum(1)[:, None]
    value += (y * y).sum(1)[None, :]
    return value


def radii(x: np.ndarray) -> np.ndarray:
    """Return each row's squared distance to its third nearest other row, (n,) float64."""
    x = np.asarray(x, np.float64)
    parts = [
        # its own distance, 0, is among the k + 1 smallest
        np.partition(_squared(x[i : i + ROWS], x), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        for i in range(0, len(x), ROWS)
    ]
    return np.concatenate(parts)


def precision_recall(
    images: np.ndarray, real: np.ndarray, real_radii: np.ndarray | None = None
) -> tuple[float, float] | None:
    """Return (precision, recall) of image features (n, d) against real ones (m, d).

    Kynkäänniemi et al. 2019, arXiv:1904.06991, k = 3: the share of images inside the union of the
    balls around real features, and the share of real features inside that around images, each
    ball reaching the third nearest neighbour of its own kind. Recall rises with n: compare at
    equal n only. None when a side has fewer than 4 rows.
    real_radii  `radii(real)`, which saves computing it again
    """
    if min(len(images), len(real)) <= NEIGHBOURS:
        return None
    images, real = np.asarray(images, np.float64), np.asarray(real, np.float64)
    real_radii = radii(real) if real_radii is None else real_radii
    own = radii(images)
    inside, covered = 0, np.zeros(len(real), bool)
    for start in range(0, len(images), ROWS):
        gap = _squared(images[start : start + ROWS], real)
        inside += int((gap <= real_radii).any(1).sum())
        covered |= (gap <= own[start : start + ROWS, None]).any(0)
    return inside / len(images), float(covered.mean())
