"""Guidance weights ω(σ): their shapes, their calibration and their limits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from samplers import available, compile_plan, guidance

KICKS = [r.name for r in available() if r.strength.endswith("kick")]


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


def test_interval_is_open_below_and_closed_above(schedule):
    weight = guidance.within(guidance.constant(7.5), 0.28, 5.42)
    assert [weight(s) for s in (0.1, 0.28, 0.281, 5.42, 5.43)] == [1, 1, 7.5, 7.5, 1]


def test_plan_guides_inside_its_interval_only(schedule):
    plan = compile_plan("dpm2m", schedule, 20, scale=7.5, interval=(0.28, 5.42))
    for row in plan:
        assert row.weight == (7.5 if 0.28 < row.sigma <= 5.42 else 1.0)


@pytest.mark.parametrize("shape", ["constant", "bell", "rising"])
def test_shape_changes_the_weights_and_keeps_the_strength(shape, schedule):
    plan = compile_plan("ddim", schedule, 50, omega=7.5, shape=shape)
    weights = [row.weight for row in plan]
    assert plan.rate
    assert (len(set(weights)) == 1) == (shape == "constant")
    if shape != "bell":
        assert sum(weights) / 50 == pytest.approx(7.5, rel=0.03)


@pytest.mark.parametrize("shape", ["constant", "rising"])
def test_bell_samplers_take_other_shapes_at_the_same_mean(shape, schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 50, omega=7.5, shape=shape, grid="leading")
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
    "option", [{"shape": "bell"}, {"interval": (0.1, 2.0)}, {"omega": lambda sigma: 2.0}]
)
def test_kick_refuses_a_rate(name, option, schedule):
    with pytest.raises(ValueError, match=r"adds a kick per step; it takes no shape of ω\(σ\)"):
        compile_plan(name, schedule, 5, **option)


def test_defaults_are_the_recipes_own(schedule):
    for recipe in available():
        assert compile_plan(recipe.name, schedule, 4).scale == recipe.scale


@pytest.mark.parametrize("name", ["res_2m", "exp2m_cfg++"])
@pytest.mark.parametrize("shape", ["constant", "bell"])
def test_every_shape_has_the_strength_asked_for(schedule, name, shape):
    """Over the reference grid, 50 leading steps, the mean weight is omega for every shape."""
    plan = compile_plan(name, schedule, 50, omega=5.0, shape=shape, grid="leading")
    assert sum(row.weight for row in plan) / 50 == pytest.approx(5.0)
