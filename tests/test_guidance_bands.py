"""Which guidance `benchmarks.guidance_bands` raises, and what it says of that."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.approximate_scores import Measured
from benchmarks.guidance_bands import EDGES, changes, figure, raised_in, table


def test_bands_cover_every_noise_level_once():
    for sigma in (0.03, 0.3, 0.31, 1.0, 4.9, 14.6):
        raised = [raised_in(band, 1.5, 4.0)(sigma) for band in pairwise(EDGES)]
        assert sorted(raised) == [1.5] * (len(EDGES) - 2) + [4.0]


def fake(rate) -> Measured:
    """CLIP gains where ω is higher at σ = 0.2, FID pays where it is at σ = 10."""
    points = {"clip": 80 + rate(0.2), "fid": 1 + rate(10.0) / 10, "all_right": 0.5}
    noise = np.linspace(-0.01, 0.01, 101)
    draws = {name: value + noise for name, value in points.items()}
    return Measured(points, draws, np.zeros((0, 8, 8, 3), np.uint8), 100)


def test_changes_are_paired_differences_from_the_base():
    plain, found = changes(fake, 1.5, 4.0)
    assert plain.points["clip"] == 81.5
    lowest, *_, highest = found.values()
    assert lowest["clip"]["difference"] == pytest.approx(2.5)
    assert lowest["clip"]["interval"] == pytest.approx([2.5, 2.5])  # the noise is shared
    assert highest["fid"]["difference"] == pytest.approx(0.25)
    assert all(m["all_right"]["difference"] == 0 for m in found.values())


def test_the_table_names_every_band_and_the_figure_is_drawn(tmp_path):
    plain, found = changes(fake, 1.5, 4.0)
    text = table(plain, found)
    assert "| nowhere | 81.50 | 1.150 | 50.0 |" in text
    assert "| 0 < σ ≤ 0.3 | +2.50 [+2.50, +2.50] | +0.000" in text and "| σ > 5 | " in text
    figure({"a": found, "b": found}).savefig(tmp_path / "bands.png")
    assert (tmp_path / "bands.png").stat().st_size > 5000


def test_without_a_fid_the_rest_is_drawn():
    """A real model without --reference has none; that must not lose a whole measurement."""
    _, found = changes(fake, 1.5, 4.0)
    bare = {band: {"clip": measures["clip"]} for band, measures in found.items()}
    assert [ax.get_ylabel() for ax in figure({"a": bare}).axes] == ["CLIP gained"]
    mixed = figure({"a": bare, "b": found}).axes
    assert [ax.get_visible() for ax in mixed] == [True, True, False, True]
