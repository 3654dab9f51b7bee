"""Guidance weights ω(σ): their shapes, their calibration and their limits."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import inf, sqrt

import numpy as np
import pytest
import torch
from problems import Mixture, network

from samplers import NoiseSchedule, available, compile_plan, guidance, trajectory
from samplers.grids import make_grid

KICKS = [r.name for r in available() if r.kicks]


def test_bell_is_the_papers_weight_at_every_reference_step(schedule):
    """ω = λ_cfg/(1 − σ_{t−20}/σ_t) at t = 981, 961, …, 21, and nearly λ_cfg at t = 1."""
    weight = guidance.bell(schedule, 0.6)
    for t in range(21, 1000, 20):
        expected = 0.6 / (1 - schedule.sigma(t - 20) / schedule.sigma(t))
        assert weight(schedule.sigma(t)) == pytest.approx(expected, rel=1e-9)
    assert weight(schedule.sigma(1)) == pytest.approx(0.6, rel=0.05)
    assert weight(schedule.sigma_min) == pytest.approx(0.6)


def test_bell_rises_and_falls_and_is_continuous(schedule):
    weight = guidance.bell(schedule, 0.6)
    sigmas = [schedule.sigma(t / 4) for t in range(4 * 999 + 1)]
    values = [weight(s) for s in sigmas]
    peak = values.index(max(values))
    assert 0.5 < sigmas[peak] < 3
    assert values[peak] == pytest.approx(9.5, abs=0.1)
    assert values[-1] == pytest.approx(5.3, abs=0.3)
    assert max(abs(a - b) for a, b in pairwise(values)) < 0.1


def test_bell_is_linear_in_the_scale_and_its_mean_is_twelve(schedule):
    sigma = 1.7
    one, two = guidance.bell(schedule, 1.0)(sigma), guidance.bell(schedule, 2.0)(sigma)
    assert two == pytest.approx(2 * one)
    assert guidance.mean_bell(schedule) == pytest.approx(12.0, abs=0.1)


def test_rising_has_the_stated_mean_over_time(schedule):
    weight = guidance.rising(schedule, 7.5)
    values = [weight(schedule.sigma(t)) for t in range(1000)]
    assert sum(values) / 1000 == pytest.approx(7.5)
    assert values[0] == pytest.approx(15) and values[-1] == pytest.approx(0)


def test_late_rises_and_has_the_stated_mean(schedule):
    weight = guidance.late(schedule, 2.5)
    values = [weight(schedule.sigma(t)) for t in range(1000)]
    assert sum(values) / 1000 == pytest.approx(2.5, rel=1e-3)
    assert values[0] == pytest.approx(1 + 2.5 * 1.5) and values[-1] == pytest.approx(1.75)
    assert all(a > b for a, b in pairwise(values))


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_late_is_constant_where_there_is_nothing_to_add_to_the_conditional_model(omega, schedule):
    assert {guidance.late(schedule, omega)(s) for s in (0.05, 1.0, 14.0)} == {omega}


def test_bounded_lowers_what_a_step_cannot_bear_and_nothing_else():
    assert guidance.bounded(4.0, 0.5, 5.0, 2.0) == 4.0  # 1.5 of Δ beyond the conditional model
    assert guidance.bounded(8.0, 0.5, 5.0, 2.0) == 5.0
    assert guidance.bounded(8.0, 0.5, 0.5, 2.0) == 3.5  # 1 + σ² in place of 2
    assert guidance.bounded(8.0, 1.0, 0.0, 2.0) == 2.0
    assert guidance.bounded(1.0, 1.0, 0.0, 0.01) == 1.0  # that model itself is never too much
    assert guidance.bounded(8.0, 1.0, 0.0, inf) == 8.0
    assert guidance.bounded(-8.0, 0.5, 5.0, 2.0) == -8.0


@pytest.mark.parametrize("arrival", [0.2, 0.7, 3.0])
def test_at_the_bound_guidance_alone_reverses_the_difference_and_no_more(arrival, schedule):
    """In closed form where Δ bends most: all of the variance 1 is between the captions."""
    law, captioned = Mixture((1.0,), (0.0,), (1.0,)), Mixture((1.0,), (1.0,), (0.0,))
    start = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)

    def difference(z: torch.Tensor, sigma: float) -> float:
        x = z.item() * sqrt(1 + sigma**2)
        return captioned.denoised(x, sigma) - law.denoised(x, sigma)

    def after_a_step(**strength: float) -> float:
        plan = compile_plan("ddim", schedule, 2, grid=(5.0, arrival, 0.0), **strength)
        step = next(trajectory(network(law, captioned, plan), start, plan))
        return difference(step.latent, arrival)

    before, alone = difference(start, 5.0), after_a_step(omega=1)
    bounded, free = after_a_step(omega=99, cap=2), after_a_step(omega=99)
    assert alone - bounded == pytest.approx(before * min(1, 2 / (1 + arrival**2)))
    assert alone - free > 3 * before


@pytest.mark.parametrize("omega", [2.0, 9.0])
@pytest.mark.parametrize("name", ["dpm2m", "dpm2s", "unipc", "exp2m_cfg++"])
def test_no_step_goes_further_beyond_the_conditional_model_than_it_may(name, omega, schedule):
    """(ω − 1)·(1 − e^{−ρh}) of Δ per step, less where the step arrives at low noise.

    With a corrector the carry only catches up to the level of the evaluation; the probe moves on.
    """
    for shape in ("late", "constant"):
        free, held = (
            compile_plan(name, schedule, 10, omega=omega, shape=shape, cap=cap)
            for cap in (inf, 0.8)
        )
        for a, b in zip(free, held, strict=True):
            moves = sum(a.carry.uncond) and a.carry.sigma < 0.999 * a.sigma
            step = a.carry if moves else a.probe
            gain, arrival = sum(step.uncond), step.sigma
            most = 0.8 * min(1, (1 + arrival**2) / 2)
            assert b.weight == pytest.approx(min(a.weight, 1 + most / gain))
        assert any(a.weight > b.weight for a, b in zip(free, held, strict=True))


def test_a_rate_of_ones_own_is_bounded_on_request_alone(schedule):
    plan, held = (
        compile_plan("exp2m_cfg++", schedule, 8, omega=lambda sigma: 6.0, **cap)
        for cap in ({}, {"cap": 2.0})
    )
    assert {row.weight for row in plan} == {6.0}
    assert max(row.weight for row in held) < 6.0


def test_an_inversion_guides_as_the_shape_says_and_is_bounded_as_the_way_down(schedule):
    """Its steps take a negative share of D: it is the size that counts."""
    free, held = (
        compile_plan("ddim_inversion", schedule, 8, omega=5.0, shape="late", **cap)
        for cap in ({}, {"cap": 0.5})
    )
    rate = guidance.late(schedule, 5.0)
    for a, b in zip(free, held, strict=True):
        expected = rate(a.sigma)
        assert a.weight == pytest.approx(expected)
        gain = abs(sum(a.carry.uncond))
        most = 0.5 * min(1, (1 + b.carry.sigma**2) / 2)
        assert b.weight == pytest.approx(min(expected, 1 + most / gain))


def test_a_fine_grid_is_not_bounded(schedule):
    """So the guided equation, and the order in which it is solved, stay what they are."""
    free, held = (
        compile_plan("exp2m_cfg++", schedule, 400, omega=3, grid="uniform", eta=0.0, cap=cap)
        for cap in (inf, 2.0)
    )
    assert free.rows[:-1] == held.rows[:-1]  # the last step, to 0, takes all of D


@pytest.mark.parametrize("cap", [0, -1, float("nan"), "two"])
def test_a_bound_that_is_none_is_refused(cap, schedule):
    with pytest.raises(ValueError, match=r"cap is .*; it must be a number above 0, or inf"):
        compile_plan("dpm2m", schedule, 5, cap=cap)


def test_interval_is_open_below_and_closed_above(schedule):
    found = [guidance.inside((0.28, 5.42), s) for s in (0.1, 0.28, 0.281, 5.42, 5.43)]
    assert found == [False, False, True, True, False]


def test_plan_guides_inside_its_interval_only(schedule):
    plan = compile_plan("dpm2m", schedule, 20, scale=7.5, interval=(0.28, 5.42))
    for row in plan:
        assert row.weight == (7.5 if 0.28 < row.sigma <= 5.42 else 1.0)


def test_edges_that_are_levels_are_met_exactly(schedule):
    """Levels come back from their logarithms, up to rounding."""
    levels = make_grid("karras", schedule, 20)
    everywhere = {"interval": (0, schedule.sigma_max), "window": (0, schedule.sigma_max)}
    plain, same = (
        compile_plan("exp2m_cfg++", schedule, 20, omega=5, **given) for given in ({}, everywhere)
    )
    assert same.rows == plain.rows
    for low, high in combinations(reversed(levels[:-1]), 2):
        plan = compile_plan("dpm2m", schedule, 20, omega=5, interval=(low, high))
        guided = [level for level, row in zip(levels, plan, strict=False) if row.weight == 5]
        assert guided == [level for level in levels if low < level <= high]


def test_the_bound_of_a_step_is_for_guidance_alone(schedule):
    """Outside the interval the conditional model's own 1 stays, whatever the bound."""
    plan = compile_plan("exp2m_cfg++", schedule, 10, omega=3, interval=(1, 5), cap=0.3)
    assert [row.weight == 1 for row in plan] == [not 1 < row.sigma <= 5 for row in plan]


@pytest.mark.parametrize("total", [500, 100, 51, 50, 49, 20])
def test_the_mean_of_the_bell_hardly_depends_on_how_finely_a_schedule_is_cut(total, schedule):
    levels = [schedule.sigma(t) for t in np.linspace(0, 999, total)]
    coarse = NoiseSchedule(1 / (1 + sigma**2) for sigma in levels)
    assert guidance.mean_bell(coarse) == pytest.approx(guidance.mean_bell(schedule), rel=0.1)


@pytest.mark.parametrize("shape", ["constant", "bell", "late", "rising"])
def test_shape_changes_the_weights_and_keeps_the_strength(shape, schedule):
    plan = compile_plan("ddim", schedule, 50, omega=7.5, shape=shape)
    weights = [row.weight for row in plan]
    assert plan.rate
    assert (len(set(weights)) == 1) == (shape == "constant")
    if shape != "bell":
        assert sum(weights) / 50 == pytest.approx(7.5, rel=0.03)


@pytest.mark.parametrize("shape", ["constant", "late", "rising"])
def test_bell_samplers_take_other_shapes_at_the_same_mean(shape, schedule):
    free = {"grid": "leading", "cap": inf}
    plan = compile_plan("exp2m_cfg++", schedule, 50, omega=7.5, shape=shape, **free)
    assert sum(row.weight for row in plan) / 50 == pytest.approx(7.5, rel=0.03)


@pytest.mark.parametrize("name", KICKS)
def test_kick_adds_scale_times_delta_once_per_step(name, schedule):
    plan = compile_plan(name, schedule, 9, scale=0.7)
    for row in plan:
        assert not any(row.carry.delta[1:])
        if row.carry.delta and "2m_cfg++" not in name:
            assert row.carry.delta[0] == 0.7
        if row.probe:
            assert not any(row.probe.delta)


@pytest.mark.parametrize("name", KICKS)
@pytest.mark.parametrize(
    "option",
    [{"shape": "bell"}, {"interval": (0.1, 2.0)}, {"cap": 2.0}, {"omega": lambda sigma: 2.0}],
)
def test_kick_refuses_a_rate(name, option, schedule):
    with pytest.raises(
        ValueError, match="adds a kick per step; it takes no shape, interval or cap"
    ):
        compile_plan(name, schedule, 5, **option)


def test_defaults_are_the_recipes_own(schedule):
    for recipe in available():
        assert compile_plan(recipe.name, schedule, 4).scale == recipe.scale


@pytest.mark.parametrize("name", ["res_2m", "exp2m_cfg++"])
@pytest.mark.parametrize("shape", ["constant", "bell"])
def test_every_shape_has_the_strength_asked_for(schedule, name, shape):
    """Over the reference grid, 50 leading steps, the mean weight is omega for every shape."""
    plan = compile_plan(name, schedule, 50, omega=5.0, shape=shape, grid="leading", cap=inf)
    assert sum(row.weight for row in plan) / 50 == pytest.approx(5.0)
