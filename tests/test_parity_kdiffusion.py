"""Whole trajectories against k-diffusion's sampling functions.

The formulas restated in `reference` are compared always, the package itself where it is installed.
Both in float64, with the same weightless network and the same noise.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from itertools import pairwise
from math import sqrt

import pytest
import reference
import torch
from reference import guided, states, toy_epsilon, toy_estimate

from samplers import compile_plan, generators, standard_normal
from samplers.grids import make_grid

OMEGA = 4.0
SEEDS = (5, 6)
Z = standard_normal((2, 4, 4, 4), generators(SEEDS), dtype=torch.float64)
CASES = [
    ("euler", "sample_euler", {}),
    ("dpm2m", "sample_dpmpp_2m", {}),
    ("euler_a", "sample_euler_ancestral", {}),
    ("dpm3m", "sample_dpmpp_3m_sde", {"eta": 0.0}),
    ("dpm3m_sde", "sample_dpmpp_3m_sde", {"eta": 1.0}),
    ("dpm3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.4}),
]


def noise():
    sources = generators(SEEDS)
    return lambda *levels: standard_normal(Z.shape, sources, dtype=torch.float64)


def ours(name: str, schedule, grid, **options):
    n = 12 if isinstance(grid, str) else len(grid) - 1
    if name == "dpm3m":
        options = {}
    plan = compile_plan(name, schedule, n, scale=OMEGA, grid=grid, **options)
    return plan, states(plan, Z, generators(SEEDS) if plan.stochastic else None)


def same(first, second, tolerance: float = 1e-9) -> None:
    assert len(first) == len(second)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"step {i}: {m}"
        )


# --- the formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["karras", "leading", "blend", "karras_unfinished"])
@pytest.mark.parametrize(("name", "function", "options"), CASES)
def test_formula(name, function, options, grid, schedule):
    plan, found = ours(name, schedule, grid, **options)
    levels = make_grid(grid, schedule, 12)
    denoised = guided(toy_estimate(levels), OMEGA)
    rule = getattr(reference, function.removeprefix("sample_"))
    extra = {"noise": noise()} if "ancestral" in function else {}
    if "3m" in function:
        extra = {"noise": noise(), **options}
    same(found, rule(denoised, Z * plan.start, levels, **extra))


@pytest.mark.parametrize("grid", ["karras_unfinished", "uniform"])
def test_formula_2s(grid, schedule):
    """Where a grid ends at 0 the pairs stop before it and first-order steps follow."""
    plan, found = ours("dpm2s", schedule, grid)
    levels = make_grid(grid, schedule, 12)
    pairs = levels if levels[-1] else levels[:-2]
    expected = reference.dpmpp_2s(guided(toy_estimate(levels), OMEGA), Z * plan.start, pairs)
    same(found[1 : 2 * len(expected) : 2], expected)


# --- the package ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampling():
    """k_diffusion.sampling alone: the package itself imports training code and OpenAI's CLIP."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed; its formulas in reference.py are compared")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "k_diffusion", package)
        yield pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)


def kdiffusion_states(function, x, levels, **options):
    """Collect the state that each evaluation starts from, and the result."""
    seen = []

    def model(x, sigma):
        level = float(sigma[0])
        uncond, cond = (x - level * eps for eps in toy_epsilon(x / sqrt(1 + level**2), level))
        return uncond + OMEGA * (cond - uncond)

    sigmas = torch.tensor(levels, dtype=torch.float64)
    result = function(
        model, x, sigmas, callback=lambda info: seen.append(info["x"]), disable=True, **options
    )
    return [*seen[1:], result]


@pytest.mark.parametrize("grid", ["karras", "leading"])
@pytest.mark.parametrize(("name", "function", "options"), CASES)
def test_package(name, function, options, grid, schedule, sampling):
    plan, found = ours(name, schedule, grid, **options)
    levels = make_grid(grid, schedule, 12)
    injected = {"noise_sampler": noise()} if "ancestral" in function or "sde" in function else {}
    call = getattr(sampling, function)
    same(found, kdiffusion_states(call, Z * plan.start, levels, **injected, **options))


def test_package_2s(schedule, sampling):
    """k-diffusion puts the midpoint halfway in λ by itself; we are given it as a level."""
    outer = [12.0, 3.0, 0.8, 0.1]
    pairs = [x for a, b in pairwise(outer) for x in (a, sqrt(a * b))]
    plan, found = ours("dpm2s", schedule, [*pairs, outer[-1], 0.0])
    call, levels = sampling.sample_dpmpp_2s_ancestral, [*outer, 0.0]
    theirs = kdiffusion_states(call, Z * plan.start, levels, eta=0.0, noise_sampler=noise())
    kept = [s for s, row in zip(found, plan, strict=True) if row.probe is None]
    same(kept, theirs)


def test_package_karras_grid(schedule, sampling):
    levels = sampling.get_sigmas_karras(10, schedule.sigma_min, schedule.sigma_max)
    torch.testing.assert_close(
        torch.tensor(make_grid("karras", schedule, 10)), levels, rtol=1e-5, atol=1e-6
    )


def test_start_differs_by_one_setting(schedule):
    """k-diffusion starts from σ_0·z, where the variance of z_T lacks that of the data."""
    k_start, our_start = schedule.sigma_max, compile_plan("dpm2m", schedule, 5).start
    assert our_start == pytest.approx(sqrt(1 + k_start**2)) and our_start > k_start
