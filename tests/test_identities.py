"""Equalities that hold by algebra: between samplers, and between a sampler and the exact answer."""

from __future__ import annotations

from decimal import Decimal, getcontext
from itertools import pairwise
from math import exp, factorial, inf, log

import pytest
import torch
from reference import states

from samplers import available, compile_plan, generators, sample
from samplers.exponential import moments, phi, weights
from samplers.grids import GRIDS

Z = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
NAMES = [r.name for r in available()]
RATES = [r.name for r in available() if not r.kicks]
STOCHASTIC = [r.name for r in available() if "eta" in r.options]


def same(first, second, tolerance: float = 1e-12) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def of(plan, seeds=(1, 2)):
    return states(plan, Z, generators(seeds) if plan.stochastic else None)


# --- between samplers ----------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["leading", "karras", "uniform", "ays_sd15", "blend"])
def test_euler_cfgpp_is_euler_cfg_with_a_weight_per_step(grid, schedule):
    """λ_cfg·Δ per step is CFG with ω_i = λ_cfg/(1 − σ'/σ), exactly, at first order."""
    kicked = compile_plan("ddim_cfg++", schedule, 12, scale=0.6, grid=grid)
    weight = {row.sigma: 0.6 / (1 - row.carry.sigma / row.sigma) for row in kicked}
    guided = compile_plan("ddim", schedule, 12, omega=lambda sigma: weight[sigma], grid=grid)
    same(of(kicked), of(guided))


def test_bell_is_the_papers_kick_on_the_papers_grid(schedule):
    """At 50 leading steps our first order is CFG++; only at t = 1 is ω 1.04·λ_cfg, not λ_cfg."""
    ours = compile_plan(
        "exp2m_cfg++", schedule, 50, 0.6, grid="leading", order=1, eta=0.0, shape="bell"
    )
    paper = compile_plan("ddim_cfg++", schedule, 50, scale=0.6, grid="leading")
    for mine, its in zip(ours.rows[:-1], paper.rows[:-1], strict=True):
        assert mine.carry.delta == pytest.approx(its.carry.delta, rel=1e-9)
    assert ours.rows[-1].carry.delta == pytest.approx(paper.rows[-1].carry.delta, rel=0.05)
    same(of(ours)[:-1], of(paper)[:-1], 1e-9)


@pytest.mark.parametrize("n", [2, 20, 100])
def test_omega_states_the_same_strength_for_every_kind_of_guidance(n, schedule):
    for name in ("ddim", "ddim_cfg++", "dpm2m_cfg++", "dpm2s_cfg++", "dpm++_2m_cfg++"):
        assert compile_plan(name, schedule, n, omega=5.0).omega == pytest.approx(5.0)
    flat, bell = ({"eta": 0.0, "cap": inf, "shape": shape} for shape in ("constant", "bell"))
    assert compile_plan("exp2m_cfg++", schedule, n, omega=5.0, **flat).omega == pytest.approx(5.0)
    reference = compile_plan(
        "exp2m_cfg++", schedule, 50, omega=5.0, grid="leading", order=1, **bell
    )
    assert reference.omega == pytest.approx(5.0, rel=0.01)
    for shape in ({}, bell):  # the scale's unit is the bell's mean whatever the shape
        by_scale = compile_plan("exp2m_cfg++", schedule, n, scale=reference.scale, **shape)
        assert compile_plan("exp2m_cfg++", schedule, n, omega=5.0, **shape).rows == by_scale.rows


def test_third_order_formula_with_two_nodes_is_the_exact_second_order(schedule):
    """The published 3M starts with the exact two-node weight, so three evaluations agree."""
    three = compile_plan("dpm3m", schedule, 3, grid=[9.0, 2.0, 0.4, 0.0])
    same(of(three), of(compile_plan("res_2m", schedule, 3, grid=[9.0, 2.0, 0.4, 0.0])))


def test_second_order_exact_weights_have_their_closed_form(schedule):
    """e^{−h}·x + (1 − e^{−h})·D_i + (h − 1 + e^{−h})/h_prev·(D_i − D_{i−1})."""
    plan = compile_plan("res_2m", schedule, 12, grid="blend")
    for before, row in pairwise(plan.rows[:-1]):
        h, h_prev = log(row.sigma / row.carry.sigma), log(before.sigma / row.sigma)
        extra = (h - 1 + exp(-h)) / h_prev
        assert row.carry.state == pytest.approx(exp(-h), rel=1e-12)
        assert row.carry.uncond == pytest.approx((1 - exp(-h) + extra, -extra), rel=1e-10)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_eta_zero_is_the_deterministic_sampler(name, schedule):
    twins = {"euler_a": "euler", "euler_a_cfg++": "euler_cfg++", "dpm3m_sde": "dpm3m"}
    plan = compile_plan(name, schedule, 8, eta=0.0)
    assert not plan.stochastic
    if name in twins:
        same(of(plan), of(compile_plan(twins[name], schedule, 8)))


def test_a_window_limits_the_noise_and_changes_nothing_outside(schedule):
    # noise moves more of D per step, which the bound on kicks would answer
    quiet = compile_plan("exp2m_cfg++", schedule, 12, eta=0.0, cap=inf)
    partly = compile_plan("exp2m_cfg++", schedule, 12, eta=0.5, window=(0.5, 5.0), cap=inf)
    for a, b in zip(quiet, partly, strict=True):
        inside = 0.5 <= a.sigma <= 5.0
        assert bool(b.carry.noise) == inside
        assert (a == b) != inside


# --- guidance without effect ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_guidance_has_no_effect_where_the_two_estimates_agree(name, schedule):
    def model(z, t):
        eps = torch.tanh(z)
        return eps, eps

    weak, strong = (compile_plan(name, schedule, 6, scale=scale) for scale in (0.3, 3.0))
    outs = [sample(model, Z, p, generators([1, 2])) for p in (weak, strong)]
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RATES)
def test_omega_one_is_the_conditional_model(name, schedule):
    def pair(z, t):
        return torch.sin(z), torch.tanh(z)

    def conditional(z, t):
        return torch.tanh(z), torch.tanh(z)

    plan = compile_plan(name, schedule, 6, omega=lambda sigma: 1.0)
    outs = [sample(model, Z, plan, generators([1, 2])) for model in (pair, conditional)]
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)


# --- exact answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, *GRIDS])
@pytest.mark.parametrize("name", NAMES)
def test_constant_data_is_reached_exactly_on_every_grid(name, grid, schedule):
    """With D constant every solver ends at D (plus the noise left where a grid ends above 0)."""
    target = torch.linspace(-1, 1, Z.numel(), dtype=torch.float64).reshape(Z.shape)
    options = {"eta": 0.0} if name in STOCHASTIC else {}
    plan = compile_plan(name, schedule, 5, grid=grid, **options)
    rows = iter(plan)

    def model(z, t):
        sigma = next(rows).sigma
        eps = (z * (1 + sigma**2) ** 0.5 - target) / sigma
        return eps, eps

    out = sample(model, Z, plan) * (1 + plan.end**2) ** 0.5
    left = plan.end / plan.rows[0].sigma * (Z * plan.start - target)
    torch.testing.assert_close(out, target + left, rtol=1e-10, atol=1e-10)


# --- the functions φ_k and the weights -----------------------------------------------------------


def exact_phi(k: int, z: float) -> float:
    """φ_k from its power series in 60 digits."""
    getcontext().prec = 60
    x, total, term = Decimal(z), Decimal(0), Decimal(1) / factorial(k)
    for n in range(1, 200):
        total += term
        term *= x / (k + n)
    return float(total)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("z", [-8.0, -2.5, -1.0, -0.999, -0.3, -1e-3, -1e-9, 0.0, 0.5, 1.0])
def test_phi_against_sixty_digits(k, z):
    assert phi(k, z) == pytest.approx(exact_phi(k, z), rel=1e-12)


@pytest.mark.parametrize("rate", [1.0, 1.5, 2.0])
def test_moments_and_weights_integrate_polynomials(rate):
    """∫ ρ e^{−ρ(h − s)} s^k ds by Gauss–Legendre quadrature of degree 39."""
    from numpy.polynomial.legendre import leggauss

    start, end = 0.3, 0.9
    h = end - start
    nodes, w = leggauss(20)
    s = (nodes + 1) * h / 2
    for k, value in enumerate(moments(h, rate, 4)):
        assert value == pytest.approx(float((w * rate * h / 2 * _kernel(rate, h, s) * s**k).sum()))
    past = [0.3, -0.1, -0.7]
    found = weights(past, start, end, rate)
    assert sum(found) == pytest.approx(1 - exp(-rate * h), rel=1e-12)
    square = sum(c * (p - start) ** 2 for c, p in zip(found, past, strict=True))
    assert square == pytest.approx(moments(h, rate, 3)[2], rel=1e-9)


def _kernel(rate, h, s):
    from numpy import exp as exponential

    return exponential(-rate * (h - s))
