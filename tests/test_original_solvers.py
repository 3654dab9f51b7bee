"""`dpm++_2m`, `dpm++_2s_a` and `dpm++_2s_a_cfg++` against loops written from their formulas.

Published rules: DPM-Solver++ (arXiv:2211.01095), k-diffusion's ancestral 2S, and CFGpp's form,
whose midpoint carries no guidance. Whole trajectories in float64, to 1e-9.
"""

from __future__ import annotations

from itertools import pairwise
from math import exp, expm1, log, sqrt

import pytest
import reference
import torch
from reference import toy_epsilon, toy_network

from samplers import compile_plan, generators, standard_normal, trajectory

SEEDS = (3, 4)
Z = standard_normal((2, 4, 4, 4), generators(SEEDS), dtype=torch.float64)


def original_karras(schedule, steps: int) -> list[float]:
    """The original's grid: `steps` + 1 points of Karras' formula, the last replaced by 0."""
    high, low = schedule.sigma_max ** (1 / 7), schedule.sigma_min ** (1 / 7)
    return [*((high + i / steps * (low - high)) ** 7 for i in range(steps)), 0.0]


def estimates(x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    uncond, cond = toy_epsilon(x / sqrt(1 + sigma**2), sigma)
    return x - sigma * uncond, x - sigma * cond


def two_s_ancestral(levels, x, strength, plus: bool, single: set[int]):
    """Return the state after every step; `single` are the steps that take one evaluation."""
    sources, out = generators(SEEDS), []
    for i, (s, t) in enumerate(pairwise(levels)):
        up = min(t, sqrt(t**2 * (s**2 - t**2) / s**2))
        down = sqrt(t**2 - up**2)
        uncond, cond = estimates(x, s)
        guided = uncond + strength * (cond - uncond)
        if i in single:
            slope = (x - (uncond if plus else guided)) / s
            x = guided + slope * down
        else:
            h = log(s / down)
            middle = sqrt(s * down)
            ahead = middle / s * x - expm1(-h / 2) * (uncond if plus else guided)
            uncond, cond = estimates(ahead, middle)
            guided = uncond + strength * (cond - uncond)
            if plus:
                x = guided - exp(-h) * uncond + exp(-h) * x
            else:
                x = exp(-h) * x - expm1(-h) * guided
        if t:
            x = x + up * standard_normal(x.shape, sources, dtype=x.dtype)
        out.append(x)
    return out


def states(plan) -> list[torch.Tensor]:
    """Run a plan on the toy network; return the states, in VE units, after rows that move it."""
    sources = generators(SEEDS) if plan.stochastic else None
    steps = list(trajectory(toy_network(plan), Z, plan, sources))
    pairs = zip(steps, plan, strict=True)
    return [s.latent * sqrt(1 + r.carry.sigma**2) for s, r in pairs if r.carry.uncond]


def same(found, expected) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize(("name", "strength"), [("dpm++_2s_a", 2.5), ("dpm++_2s_a_cfg++", 0.6)])
def test_2s_ancestral_takes_n_steps_in_2n_minus_1_evaluations(name, strength, steps, schedule):
    plan = compile_plan(name, schedule, 2 * steps - 1, scale=strength)
    levels = original_karras(schedule, steps)
    rule = two_s_ancestral(levels, Z * plan.start, strength, "++" in name[4:], {steps - 1})
    same(states(plan), rule)


@pytest.mark.parametrize(("name", "strength"), [("dpm++_2s_a", 2.5), ("dpm++_2s_a_cfg++", 0.6)])
def test_2s_ancestral_spends_an_even_budget_by_a_first_order_first_step(name, strength, schedule):
    """NFE 20 is eleven steps, the first and the last of one evaluation; CFGpp has odd NFE only."""
    plan = compile_plan(name, schedule, 20, scale=strength)
    levels = original_karras(schedule, 11)
    rule = two_s_ancestral(levels, Z * plan.start, strength, "++" in name[4:], {0, 10})
    same(states(plan), rule)


def test_2s_ancestral_cfgpp_guides_no_midpoint(schedule):
    plan = compile_plan("dpm++_2s_a_cfg++", schedule, 19, scale=0.6)
    probes = [row.probe for row in plan if row.probe]
    assert len(probes) == 9
    assert all(not any(probe.delta) for probe in probes)


def test_network_is_told_the_nearest_whole_timestep_of_midpoints_too(schedule):
    for row in compile_plan("dpm++_2s_a", schedule, 19):
        assert row.timestep == round(schedule.timestep(row.sigma))


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_2m_on_the_original_grid(n, schedule):
    plan = compile_plan("dpm++_2m", schedule, n, scale=3.0)
    levels = original_karras(schedule, n)
    denoised = reference.guided(reference.toy_estimate(levels), 3.0)
    same(states(plan), reference.dpmpp_2m(denoised, Z * plan.start, levels))
    assert all(row.timestep == round(schedule.timestep(row.sigma)) for row in plan)
