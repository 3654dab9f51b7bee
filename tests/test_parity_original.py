"""The recipes that bear the original's names against the original's rules, restated from formulas.

Each way in which a rule departs from the textbook is one test, named after it. "The original" is
the public CFGpp repository: an SD file and an SDXL file.
"""

from __future__ import annotations

import itertools
from math import exp, expm1, log, sqrt

import pytest
import reference
import torch
from reference import guided, states, toy_estimate

from samplers import compile_plan, generators, standard_normal, trajectory
from samplers.grids import make_grid

SEEDS = (7, 8)
Z = standard_normal((2, 4, 4, 4), generators(SEEDS), dtype=torch.float64)
SIZES = [1, 2, 5, 20]


def noise():
    sources = generators(SEEDS)
    return lambda: standard_normal(Z.shape, sources, dtype=torch.float64)


def ours(name: str, schedule, n: int, **options):
    plan = compile_plan(name, schedule, n, **options)
    return plan, states(plan, Z, generators(SEEDS) if plan.stochastic else None)


def same(first, second) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def original_karras(schedule, n: int) -> list[float]:
    """n + 1 points of Karras' formula between the ends of the table; the last is replaced by 0."""
    high, low = schedule.sigma_max ** (1 / 7), schedule.sigma_min ** (1 / 7)
    return [*((high + i / n * (low - high)) ** 7 for i in range(n)), 0.0]


# --- DDIM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 20, 50])
def test_first_order_reads_the_alpha_before_the_timestep_that_it_tells(n, schedule):
    """A 1.0 stands before the table of ᾱ, so timestep t is paired with ᾱ_{t−1}."""
    plan, found = ours("ddim_cfg++_first_order", schedule, n, scale=0.6)
    skip = 1000 // n
    timesteps = [i * skip + 1 for i in reversed(range(n))]  # diffusers: leading, offset 1
    shifted = [1.0, *schedule.alphas_cumprod]
    levels = [sqrt((1 - shifted[t]) / shifted[t]) for t in timesteps]
    assert [row.timestep for row in plan] == timesteps
    assert [row.sigma for row in plan] == pytest.approx(levels, rel=1e-12)
    rule = reference.cfgpp_euler(toy_estimate(levels), Z * plan.start, [*levels, 0.0], 0.6)
    same(found, rule)


def test_first_order_ends_on_its_last_guided_estimate(schedule):
    """The state after the last step is never decoded; D_u + λ·Δ is."""
    plan, found = ours("ddim_cfg++_first_order", schedule, 10, scale=0.6)
    run = list(trajectory(reference.toy_network(plan), Z, plan))
    torch.testing.assert_close(found[-1], run[-1].denoised, rtol=1e-12, atol=1e-12)


def test_textbook_first_order_pairs_timestep_and_alpha(schedule):
    plan = compile_plan("ddim_cfg++", schedule, 20)
    table = schedule.alphas_cumprod
    for row in plan:
        a = table[int(row.timestep)]
        assert row.sigma == pytest.approx(sqrt((1 - a) / a), rel=1e-12)


# --- Karras grid and whole timesteps -------------------------------------------------------------


@pytest.mark.parametrize(("n", "last"), [(5, 0.170), (10, 0.074), (50, 0.036)])
def test_karras_grid_of_the_original_stops_short_of_sigma_min(n, last, schedule):
    levels = make_grid("karras_cfgpp", schedule, n)
    assert levels == pytest.approx(original_karras(schedule, n), rel=1e-12)
    assert levels[-2] == pytest.approx(last, abs=5e-4)
    assert make_grid("karras", schedule, n)[-2] == pytest.approx(schedule.sigma_min)


@pytest.mark.parametrize(
    "name", ["euler", "euler_cfg++", "euler_a", "euler_a_cfg++", "dpm++_2m_cfg++", "dpm++_2m_cfgpp"]
)
def test_network_is_told_the_nearest_whole_timestep(name, schedule):
    plan = compile_plan(name, schedule, 20)
    for row in plan:
        assert row.timestep == int(row.timestep)
        assert abs(row.timestep - schedule.timestep(row.sigma)) <= 0.5


# --- k-samplers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_euler(n, schedule):
    plan, found = ours("euler", schedule, n, scale=7.5)
    levels = original_karras(schedule, n)
    same(found, reference.euler(guided(toy_estimate(levels), 7.5), Z * plan.start, levels))
    assert plan.start == pytest.approx(sqrt(1 + schedule.sigma_max**2))


@pytest.mark.parametrize("n", SIZES)
def test_euler_ancestral(n, schedule):
    plan, found = ours("euler_a", schedule, n, scale=7.5)
    levels = original_karras(schedule, n)
    denoised = guided(toy_estimate(levels), 7.5)
    same(found, reference.euler_ancestral(denoised, Z * plan.start, levels, noise()))


@pytest.mark.parametrize("n", SIZES)
def test_euler_cfgpp(n, schedule):
    plan, found = ours("euler_cfg++", schedule, n, scale=0.6)
    levels = original_karras(schedule, n)
    same(found, reference.cfgpp_euler(toy_estimate(levels), Z * plan.start, levels, 0.6))


@pytest.mark.parametrize("n", SIZES)
def test_euler_ancestral_cfgpp(n, schedule):
    plan, found = ours("euler_a_cfg++", schedule, n, scale=0.6)
    levels = original_karras(schedule, n)
    rule = reference.cfgpp_euler(toy_estimate(levels), Z * plan.start, levels, 0.6, noise())
    same(found, rule)


# --- the two files' second-order CFG++ -----------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_sd_file_subtracts_the_previous_unconditional_from_the_guided_estimate(n, schedule):
    plan, found = ours("dpm++_2m_cfg++", schedule, n, scale=0.6)
    levels = original_karras(schedule, n)
    same(found, reference.cfgpp_2m_sd(toy_estimate(levels), Z * plan.start, levels, 0.6))


def test_sd_file_pushes_harder_than_a_kick_by_its_second_order_weight(schedule):
    """The leak adds λ·(1 − r)/(2ρ) to the kick of λ per step."""
    leaky = compile_plan("dpm++_2m_cfg++", schedule, 20, scale=0.6)
    plain = compile_plan("dpm2m_cfg++", schedule, 20, scale=0.6, grid="karras_cfgpp")
    for a, b in zip(leaky.rows[1:-1], plain.rows[1:-1], strict=True):
        assert a.carry.uncond == b.carry.uncond
        assert a.carry.delta[0] == pytest.approx(0.6 * (1 - b.carry.uncond[1]))
        assert a.carry.delta[0] > b.carry.delta[0] == 0.6


@pytest.mark.parametrize("n", SIZES)
def test_sdxl_file_subtracts_unconditional_from_unconditional(n, schedule):
    plan, found = ours("dpm++_2m_cfgpp", schedule, n, scale=0.6)
    levels = [row.sigma for row in plan] + [plan.end]
    same(found, reference.cfgpp_2m_sdxl(toy_estimate(levels), Z * plan.start, levels, 0.6))


def test_sdxl_file_starts_from_sigma_times_noise(schedule):
    plan = compile_plan("dpm++_2m_cfgpp", schedule, 10)
    assert plan.start == pytest.approx(schedule.sigma_max)


def test_sdxl_file_makes_one_call_less_and_ends_at_sigma_min(schedule):
    """Its N steps are N − 1 calls on N levels; nfe here counts the calls."""
    high, low = schedule.sigma_max ** (1 / 7), schedule.sigma_min ** (1 / 7)
    steps = 20
    levels = [(high + i / (steps - 1) * (low - high)) ** 7 for i in range(steps)]
    plan = compile_plan("dpm++_2m_cfgpp", schedule, steps - 1)
    assert [row.sigma for row in plan] == pytest.approx(levels[:-1], rel=1e-12)
    assert plan.end == pytest.approx(schedule.sigma_min)


# --- ComfyUI -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_res_multistep_cfg_pp_of_comfyui_guides_before_the_step(n, schedule):
    """x ← x + λ_cfg·Δ, then RES on D_u; its first and last steps are CFG++'s own."""
    plan, found = ours("res_2m_cfg++", schedule, n, scale=0.6)
    levels = make_grid("karras", schedule, n)
    estimate, x, past, rule = toy_estimate(levels), Z * plan.start, None, []
    for i, (sigma, to) in enumerate(itertools.pairwise(levels)):
        uncond, cond = estimate(x, i)
        kick = 0.6 * (cond - uncond)
        if past is None or to == 0:
            x = uncond + kick + to / sigma * (x - uncond)
        else:
            h = log(sigma / to)
            phi1 = -expm1(-h) / h
            phi2 = (1 - phi1) / h
            before = log(levels[i - 1] / sigma) / h
            x = exp(-h) * (x + kick) + h * ((phi1 + phi2 / before) * uncond - phi2 / before * past)
        past = uncond
        rule.append(x)
    same(found, rule)
