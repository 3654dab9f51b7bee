"""Score the images of approximated runs, and compare them with the exact run's, paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval import reference as references
from eval.extractor import extractor_for
from eval.metrics import frechet_floor, frechet_influence
from eval.statistics import (
    difference,
    judge,
    linear_draws,
    resample_weights,
    resampled_mean,
)

LOWER_IS_BETTER = {"clip": False, "fid": True, "all_right": False}
RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """Points by measure, draws (B,) by measure, pixels (n, h, w, 3), and how many prompts."""

    points: dict[str, float]
    draws: dict[str, np.ndarray]
    pixels: np.ndarray
    prompts: int


class Scores:
    """Score images of fixed prompts; measures that cannot be had are left out.

    FID's draws are linear in the weights of the prompts, see `eval.statistics.linear_draws`.
    """

    def __init__(
        self, prompts: list[str], standin: bool, reference: str | None, size: tuple[int, int]
    ) -> None:
        self.prompts = prompts
        wanted = standin or reference is not None
        self._extractor, problems = extractor_for(None, standin, wanted)
        self._reference = None
        if wanted and "fid" not in problems:
            self._reference = references.load(reference, self._extractor, size, standin)
        self._texts = _unit(self._extractor.scorer.texts(prompts))
        self._weights = resample_weights(len(prompts), RESAMPLES)

    def floor(self, images: int) -> float | None:
        """Return the FID of as many pictures more of the reference's kind."""
        reference = self._reference
        if reference is None or reference.features is None:
            return None
        return frechet_floor(reference.features, images)

    def measure(self, pixels: np.ndarray, owners: Sequence[int]) -> Measured:
        """Score uint8 images (n, h, w, 3); owners[k] is the prompt of image k."""
        owner, extractor = np.asarray(owners), self._extractor
        images = _unit(extractor.scorer.images(pixels))
        clip = 100 * (images * self._texts[owner]).sum(1).astype(np.float64)
        points, draws = {"clip": float(clip.mean())}, {"clip": self._means(clip, owner)}
        if extractor.checker is not None:
            texts = [self.prompts[p] for p in owner]
            right = extractor.checker.verdicts(pixels, texts)[:, 0].astype(np.float64)
            points["all_right"] = float(right.mean())
            draws["all_right"] = self._means(right, owner)
        if self._reference is not None:
            features = extractor.fid_features(pixels)
            points["fid"], slope = frechet_influence(features, self._reference.statistics)
            slopes = np.bincount(owner, slope, minlength=len(self.prompts))
            draws["fid"] = linear_draws(points["fid"], slopes, self._weights)
        return Measured(points, draws, pixels, len(self.prompts))

    def _means(self, values: np.ndarray, owner: np.ndarray) -> np.ndarray:
        n = len(self.prompts)
        total, count = np.bincount(owner, values, minlength=n), np.bincount(owner, minlength=n)
        return resampled_mean(total, count, self._weights)


def differences(measured: Mapping[str, Measured], base: str) -> dict[str, dict]:
    """Compare every way with the base: paired differences with verdicts, and pixel distance.

    Holm's correction runs over all ways of one sampler, measure by measure. `pixel_rmse` is over
    all pixels, in steps of 0 … 255.
    """
    exact = measured[base]
    others = {name: m for name, m in measured.items() if name != base}
    found: dict[str, dict] = {name: {} for name in others}
    for measure in exact.points:
        family = {
            name: difference(
                m.points[measure] - exact.points[measure],
                m.draws[measure] - exact.draws[measure],
                exact.prompts,
            )
            for name, m in others.items()
        }
        for name, entry in judge(family, LOWER_IS_BETTER[measure]).items():
            found[name][measure] = entry
    for name, m in others.items():
        gap = m.pixels.astype(np.float64) - exact.pixels
        found[name]["pixel_rmse"] = float(np.sqrt((gap**2).mean()))
    return found


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)
