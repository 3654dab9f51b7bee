"""The closed-form bed: its denoiser is the posterior mean, its scores are those of the truth."""

from __future__ import annotations

import pytest
import torch

from benchmarks.mixture import LEVELS, SCHEDULE, Bed, at_levels
from samplers import compile_plan

BED = Bed(classes=3, per_class=2, dimensions=6)
EXACT = Bed(classes=3, per_class=2, dimensions=6, imperfect=0.0)


def test_the_denoiser_is_the_posterior_mean():
    """Against self-normalised importance sampling from the class, at one noisy point."""
    g, sigma = torch.Generator().manual_seed(0), 0.8
    x0 = EXACT.truth.draw(torch.ones(400_000, dtype=torch.long), g)
    x = x0[:1] + sigma * torch.randn(1, 6, generator=g)
    weight = (-((x - x0) ** 2).sum(1) / (2 * sigma**2)).softmax(0)
    found = EXACT.conditional.denoised(x, sigma, torch.tensor([1]))
    torch.testing.assert_close(found[0], weight @ x0, atol=0.02, rtol=0)


def test_true_samples_score_best():
    classes = torch.arange(6000) % BED.classes
    true = BED.truth.draw(classes, torch.Generator().manual_seed(5))
    distance, alignment = BED.score(true, classes)
    other, worse = BED.score(true.flip(0) * 1.1, classes)
    assert distance < 0.02 < other
    assert alignment > worse


def test_exact_denoisers_with_many_steps_draw_the_truth():
    plan = compile_plan("exp2m_cfg++", SCHEDULE, 100, omega=1.0, shape="constant")
    distance, _ = EXACT.score(*EXACT.run(plan, 3000))
    assert distance < 0.05


@pytest.mark.parametrize("name", ["dpm2m", "dpm3m_sde"])
def test_alignment_rises_with_guidance(name):
    scores = [
        BED.score(*BED.run(compile_plan(name, SCHEDULE, 20, omega=w), 1000))[1] for w in (1, 2, 4)
    ]
    assert scores == sorted(scores)


def test_fronts_are_read_at_equal_alignment():
    points = [(-1.2, 1.0), (-0.5, 1.0), (-0.25, 4.0), (-0.4, 9.0)]
    found = at_levels(points)
    assert found[LEVELS.index(-1.0)] == pytest.approx(1.0)
    assert 1 < found[LEVELS.index(-0.3)] < 4
    assert found[LEVELS.index(-0.2)] is None
