"""Inversion plans: their formulas, their check, and that sampling undoes them."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from reference import toy_epsilon, toy_network

from samplers import Plan, available, compile_plan, generators, sample, standard_normal, trajectory

X0 = standard_normal((2, 4, 4, 4), generators((5, 6)), dtype=torch.float64) * 0.8
NAMES = [recipe.name for recipe in available("inversion")]
STRENGTHS = [("ddim_inversion", 2.0), ("ddim_inversion_cfg++", 0.3)]
SIZES = [1, 2, 3, 10, 50]


def noises(x, sigma: float, scale: float, plus: bool):
    """Return what a step takes away and what it adds: ε_u (CFG++) or ε_guided, then ε_guided."""
    uncond, cond = toy_epsilon(x / sqrt(1 + sigma**2), sigma)
    guided = uncond + scale * (cond - uncond)
    return (uncond if plus else guided), guided


def plain_inversion(levels, x, scale, plus):
    """DDIM inversion: ε at the present level; the clean latent is told the lowest one."""
    out = []
    for i, t in enumerate(levels):
        s = levels[i - 1] if i else 0.0
        taken, added = noises(x, s or t, scale, plus)
        x = x - s * taken + t * added
        out.append(x)
    return out


def refined_inversion(levels, x, scale, plus):
    """Predict the next level, evaluate there, and take the step with that ε instead."""
    out, s, ahead = [], 0.0, x
    for i, t in enumerate(levels):
        if i == 1:
            ahead = x - s * taken + t * added  # noqa: F821 (of the evaluation before)
        elif i > 1:
            tweedie, guided = ahead - s * taken, ahead - s * added  # noqa: F821
            ahead = tweedie + t * (x - guided) / s
        taken, added = noises(ahead, t, scale, plus)
        x = x - s * taken + t * added
        out.append(x)
        s = t
    return out


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize(
    ("name", "scale"), [("ddim_inversion", 2.0), ("ddim_inversion_cfg++", 0.4)]
)
def test_inversion_follows_its_formula(name, scale, refined, n, schedule):
    """CFG++ (arXiv:2406.08070): x = D_u + σ·ε_guided; CFG: x = D_guided + σ·ε_guided."""
    plan = compile_plan(name, schedule, n, scale=scale, refined=refined)
    levels = [row.carry.sigma for row in plan]
    steps = trajectory(toy_network(plan), X0, plan)
    found = [step.latent * sqrt(1 + t**2) for step, t in zip(steps, levels, strict=True)]
    rule = refined_inversion if refined else plain_inversion
    for a, b in zip(found, rule(levels, X0, scale, name.endswith("++")), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", SIZES)
def test_inversion_climbs_the_levels_of_sampling(name, n, schedule):
    """As many evaluations as sampling makes, at its levels and timesteps, from the lowest up."""
    down = compile_plan(name.replace("_inversion", ""), schedule, n)
    up = compile_plan(name, schedule, n)
    assert [(r.sigma, r.timestep) for r in up] == [(r.sigma, r.timestep) for r in down][::-1]
    assert [r.carry.sigma for r in up] == [r.sigma for r in up]
    assert len(up) == n and up.start == 1.0 and not up.stochastic
    assert up.end * sqrt(1 + 1 / up.end**2) == pytest.approx(down.start)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", ["leading", "leading_shifted", "karras", "karras_unfinished"])
@pytest.mark.parametrize("refined", [False, True])
def test_inversions_pass_the_check_of_every_plan(name, grid, refined, schedule):
    for n in SIZES:
        plan = compile_plan(name, schedule, n, grid=grid, refined=refined)
        assert plan.check() is plan and Plan.from_json(plan.to_json()) == plan


def test_check_finds_a_level_out_of_order(schedule):
    """Levels must rise all the way in an inversion, and fall all the way elsewhere."""
    for name in ("ddim_inversion", "ddim"):
        rows = list(compile_plan(name, schedule, 6).rows)
        carry = rows[3].carry
        rows[3] = replace(rows[3], carry=replace(carry, sigma=rows[2].carry.sigma))
        with pytest.raises(ValueError, match=r"row 3, carry: it moves from .*, the wrong way"):
            replace(compile_plan(name, schedule, 6), rows=tuple(rows)).check()


def test_check_finds_a_decay_that_misses_the_level(schedule):
    rows = list(compile_plan("ddim_inversion", schedule, 6, refined=False).rows)
    state, (gain,) = rows[3].carry.state + 0.1, rows[3].carry.uncond
    carry = replace(rows[3].carry, state=state, uncond=(gain - 0.1,), delta=(7.5 * (gain - 0.1),))
    rows[3] = replace(rows[3], carry=carry)
    with pytest.raises(ValueError, match=r"row 3, carry: noise level .* results where .* is due"):
        replace(compile_plan("ddim_inversion", schedule, 6), rows=tuple(rows)).check()


def bend(z, t):
    """Smooth, and small at low noise levels as a network's error is; Δ is a tenth of it."""
    eps = torch.tanh(z) * (t + 20) / 1020
    return eps, eps + 0.1 * torch.sin(2 * z) * (t + 20) / 1020


def round_trip(name, schedule, n, scale, **options) -> float:
    up = compile_plan(name, schedule, n, scale=scale, **options)
    down = compile_plan(name.replace("_inversion", ""), schedule, n, scale=scale)
    back = sample(bend, sample(bend, X0, up), down)
    return float((back - X0).norm() / X0.norm())


@pytest.mark.parametrize(
    ("name", "scale"), [("ddim_inversion", 3.0), ("ddim_inversion_cfg++", 0.3)]
)
def test_sampling_undoes_inversion_and_refining_brings_it_closer(name, scale, schedule):
    plain = round_trip(name, schedule, 20, scale, refined=False)
    refined = round_trip(name, schedule, 20, scale)
    assert refined < 0.05
    assert refined < plain / 3


def test_round_trips_converge_in_second_order_when_refined(schedule):
    """Without a kick, halving the steps quarters the error; plain inversion only halves it."""
    levels = {n: [10.0 * 0.01 ** (i / n) for i in range(n)] + [0.0] for n in (200, 400)}
    for refined, factor in ((True, 4.0), (False, 2.0)):
        a, b = (round_trip_between(schedule, grid, refined=refined) for grid in levels.values())
        assert a / b == pytest.approx(factor, rel=0.25)


def round_trip_between(schedule, grid, refined) -> float:
    """The same from level 0.1 on, where the inversion starts, so that σ = 0 plays no part."""
    n = len(grid) - 1
    up = compile_plan("ddim_inversion", schedule, n, 2.0, grid=grid, refined=refined)
    down = compile_plan("ddim", schedule, n, 2.0, grid=grid)
    lowest = next(iter(trajectory(bend, X0, up))).latent
    *_, before, _ = trajectory(bend, sample(bend, X0, up), down)
    return float((before.latent - lowest).norm())
