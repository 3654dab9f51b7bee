"""Randomness: distribution of stochastic samplers, and images that depend on their seed alone."""

from __future__ import annotations

from itertools import pairwise
from math import exp, expm1, inf, log, sqrt

import pytest
import reference
import torch
from problems import slope as order_shown
from problems import uniform_levels

from benchmarks.gaussian import spread_error
from samplers import compile_plan, generators, sample, standard_normal
from samplers.noise import generators_of

CASES = [("dpm3m_sde", {}), ("euler_a", {}), ("exp2m_cfg++", {"eta": 0.5})]
SLOPE_U, SHIFT_U, SLOPE_C, SHIFT_C = 0.3, 0.5, 0.4, 1.0  # D = slope·x/(1 + σ) + shift


def affine(sigma: float, slope: float, shift: float) -> tuple[float, float]:
    return slope / (1 + sigma), shift


def affine_network(plan):
    rows = iter(plan)

    def model(z, t):
        sigma = next(rows).sigma
        x = z * sqrt(1 + sigma**2)
        pairs = (affine(sigma, SLOPE_U, SHIFT_U), affine(sigma, SLOPE_C, SHIFT_C))
        return tuple((x - (a * x + b)) / sigma for a, b in pairs)

    return model


def predicted_moments(plan) -> tuple[float, float]:
    """Propagate mean and variance through a plan on affine D, without running it.

    Every state is an affine function of z_T and of the noise drawn so far; these coefficients are
    what is propagated. Index 0 is the constant, 1 is z_T, k + 2 the noise of row k.
    """
    size = len(plan) + 2
    x = [0.0] * size
    x[1] = plan.start
    history: list[tuple[list[float], list[float]]] = []
    for k, row in enumerate(plan):
        estimates = []
        for slope, shift in ((SLOPE_U, SHIFT_U), (SLOPE_C, SHIFT_C)):
            a, b = affine(row.sigma, slope, shift)
            estimates.append([a * v + (b if i == 0 else 0) for i, v in enumerate(x)])
        history.insert(0, tuple(estimates))
        new = [row.carry.state * v for v in x]
        for (uncond, cond), u, g in zip(history, row.carry.uncond, row.carry.delta, strict=False):
            new = [v + u * a + g * (b - a) for v, a, b in zip(new, uncond, cond, strict=True)]
        new[k + 2] += row.carry.noise
        x = new
    return x[0], sum(v * v for v in x[1:])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_mean_and_variance_follow_the_recursion(name, options, schedule):
    plan = compile_plan(name, schedule, 10, **options, omega=lambda sigma: 2.0)
    mean, variance = predicted_moments(plan)
    count = 40_000
    z = torch.randn(1, 1, 100, count // 100, dtype=torch.float64, generator=generators([1])[0])
    out = sample(affine_network(plan), z, plan, generators([2]))
    assert plan.stochastic
    assert float(out.mean()) == pytest.approx(mean, abs=5 * sqrt(variance / count))
    assert float(out.var()) == pytest.approx(variance, rel=5 * sqrt(2 / count))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_noise_restores_the_marginal_variance(name, options, schedule):
    """On data that is one point, D = 0, the state must keep the variance σ² of its level."""
    plan = compile_plan(name, schedule, 10, **options, grid="karras_unfinished")
    variance = plan.rows[0].sigma ** 2
    for row in plan:
        variance = row.carry.state**2 * variance + row.carry.noise**2
        assert variance == pytest.approx(row.carry.sigma**2, rel=1e-9)


# --- seeds ---------------------------------------------------------------------------------------


def images(schedule, seeds, name="dpm3m_sde", dtype=torch.float32):
    plan = compile_plan(name, schedule, 6)
    sources = generators(seeds)
    z = standard_normal((len(seeds), 4, 6, 6), sources, dtype=dtype)

    def model(z, t):  # no matrix product: every operation acts on each image alone
        return torch.tanh(z), torch.sin(z + t / 1000)

    return sample(model, z, plan, sources)


@pytest.mark.parametrize("name", ["dpm3m_sde", "euler_a_cfg++", "dpm2m"])
def test_an_image_depends_on_its_seed_alone(name, schedule):
    whole = images(schedule, [11, 12, 13, 14], name)
    for k, seed in enumerate([11, 12, 13, 14]):
        assert torch.equal(images(schedule, [seed], name)[0], whole[k])
    assert torch.equal(images(schedule, [14, 12], name), whole[[3, 1]])
    assert not torch.equal(whole[0], whole[1])


def test_the_same_seed_gives_the_same_noise_in_every_dtype(schedule):
    single, double = (
        standard_normal((1, 4, 3, 3), generators([5]), dtype=d)
        for d in (torch.float32, torch.float64)
    )
    assert torch.equal(single, double.float())


def test_generators_are_left_alone_by_deterministic_plans(schedule):
    sources = generators([1])
    before = sources[0].get_state()
    plan = compile_plan("exp2m_cfg++", schedule, 4, eta=0.0)
    sample(lambda z, t: (z, z), torch.zeros(1, 4, 2, 2), plan, sources)
    assert torch.equal(before, sources[0].get_state())


# --- noise that follows from z_T -----------------------------------------------------------------


def from_latent(z, plan):
    return sample(lambda z, t: (torch.tanh(z), torch.sin(z + t / 1000)), z, plan)


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "euler_a_cfg++"])
def test_the_same_first_latent_gives_the_same_image(name, schedule):
    plan, z = compile_plan(name, schedule, 6), torch.randn(1, 4, 6, 6)
    first = from_latent(z, plan)
    torch.manual_seed(0)  # torch's global generator has no part in it
    assert torch.equal(from_latent(z.clone(), plan), first)


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "euler_a_cfg++"])
def test_noise_follows_from_the_first_latent_in_every_batch_and_order(name, schedule):
    plan, z = compile_plan(name, schedule, 6), torch.randn(4, 4, 6, 6)
    whole = from_latent(z, plan)
    for k in range(4):
        assert torch.equal(from_latent(z[k : k + 1], plan)[0], whole[k])
    assert torch.equal(from_latent(z[[3, 1]], plan), whole[[3, 1]])


def test_noise_without_generators_is_that_of_generators_of_the_latent(schedule):
    plan, z = compile_plan("exp2m_cfg++", schedule, 6), torch.randn(2, 4, 6, 6)
    model = lambda z, t: (torch.tanh(z), torch.sin(z))  # noqa: E731
    assert torch.equal(sample(model, z, plan), sample(model, z, plan, generators_of(z)))


def test_a_latent_of_any_layout_and_dtype_seeds_by_its_values():
    z = torch.randn(2, 4, 6, 6).bfloat16()
    channels_last = z.to(memory_format=torch.channels_last)
    seeds = [[g.initial_seed() for g in generators_of(x)] for x in (z, z.double(), channels_last)]
    assert seeds[0] == seeds[1] == seeds[2]
    assert seeds[0][0] != seeds[0][1]
    one_bit = z.float().clone()
    one_bit[0, 0, 0, 0] = torch.nextafter(one_bit[0, 0, 0, 0], torch.tensor(9.0))
    assert generators_of(one_bit)[0].initial_seed() != seeds[0][0]


# --- the default: the reverse SDE with half the history -------------------------------------------


def test_our_default_is_the_reverse_sde_with_half_the_history(schedule):
    said = {"eta": 1.0, "history": 0.5, "order": 2, "shape": "late", "cap": 2.0}
    plain = compile_plan("exp2m_cfg++", schedule, 12, 0.5)
    assert plain.rows == compile_plan("exp2m_cfg++", schedule, 12, 0.5, **said).rows
    assert plain.stochastic and not compile_plan("exp2m_cfg++", schedule, 12, eta=0.0).stochastic


def test_the_sampler_for_few_evaluations_has_half_of_the_noise_and_a_constant_weight(schedule):
    said = {"eta": 0.5, "history": 0.5, "order": 2, "shape": "constant", "cap": 2.0}
    plain = compile_plan("exp2m_cfg++_few", schedule, 7, omega=9)
    assert plain.rows == compile_plan("exp2m_cfg++_few", schedule, 7, omega=9, **said).rows
    beyond = [(row.weight - 1) * sum(row.carry.uncond) for row in plain]
    assert beyond == pytest.approx([min(2, 1 + row.carry.sigma**2) for row in plain])


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, 1),
        ({"eta": 0.0}, 2),
        ({"history": 1.0}, 2),
        ({"eta": 0.0, "history": 0.5}, 2),
        ({"corrector": True}, 1),
        ({"corrector": True, "history": 1.0}, 1),
        ({"corrector": True, "eta": 0.0}, 3),
    ],
)
def test_our_default_declares_order_one_and_its_deterministic_form_two(options, order, schedule):
    assert compile_plan("exp2m_cfg++", schedule, 12, **options).order == order


# --- the corrector with noise ---------------------------------------------------------------------


def predicted_and_corrected(z, plan, levels, eta, history, noise) -> list[torch.Tensor]:
    """Return the predictions of a sampler that keeps two states, and draws each noise once.

    x_{i+1} predicted is a·x_i + g·D_i + history·b·(D_i − D_{i−1})/h_{i−1} + n_i with x_i corrected,
    and x_{i+1} corrected is a·x_i + g·D_i + b·(D_{i+1} − D_i)/h_i + n_i: a line through both ends.
    """
    estimate = reference.toy_estimate(levels)
    corrected, predicted, out, before = z * plan.start, z * plan.start, [], None
    for i, (sigma, to) in enumerate(pairwise(levels)):
        uncond, cond = estimate(predicted, i)
        present = uncond + plan.rows[i].weight * (cond - uncond)
        if before is not None:
            base, ramp, earlier, span = before
            corrected = base + ramp * (present - earlier) / span
        if to == 0:
            return [*out, present]
        h = log(sigma / to)
        ramp = h + expm1(-(1 + eta) * h) / (1 + eta)  # ∫ ρ e^{−ρ(h − s)}·s ds
        drawn = to * sqrt(-expm1(-2 * eta * h)) * noise()
        base = exp(-(1 + eta) * h) * corrected - expm1(-(1 + eta) * h) * present + drawn
        trend = 0.0 if before is None else (present - before[2]) / before[3]
        predicted = base + history * ramp * trend
        before = base, ramp, present, h
        out.append(predicted)
    return out


@pytest.mark.parametrize("grid", ["karras", "ays", "karras_unfinished"])
@pytest.mark.parametrize(("eta", "history"), [(1.0, 0.5), (1.0, 0.0), (0.4, 1.0)])
def test_a_noisy_corrector_takes_each_step_again_with_its_own_noise(grid, eta, history, schedule):
    """One state and three weights per row do what two states and two updates do."""
    said = {"eta": eta, "history": history, "corrector": True, "shape": "constant", "cap": inf}
    plan = compile_plan("exp2m_cfg++", schedule, 12, omega=3, grid=grid, **said)
    z = standard_normal((2, 4, 4, 4), generators([5, 6]), dtype=torch.float64)
    sources = generators([5, 6])
    draw = lambda: standard_normal(z.shape, sources, dtype=torch.float64)  # noqa: E731
    levels = [row.sigma for row in plan] + [plan.end]
    expected = predicted_and_corrected(z, plan, levels, eta, history, draw)
    found = reference.states(plan, z, generators([5, 6]))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def weak_error(schedule, n: int, width: float, **options) -> float:
    """How far from exact the spread of Gaussian data is between noise levels 10 and 0.05."""
    said = {"eta": 1.0, "omega": 1.0, "shape": "constant", "grid": uniform_levels(n), **options}
    return abs(spread_error(compile_plan("exp2m_cfg++", schedule, n, **said), width))


@pytest.mark.parametrize("options", [{}, {"corrector": True, "history": 1.0}])
def test_the_exact_spread_is_that_of_samples(options, schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 8, omega=1.0, **options)
    rows, width, count = iter(plan), 0.5, 40_000

    def model(z, t):
        sigma = next(rows).sigma
        x = z * sqrt(1 + sigma**2)
        eps = x * sigma / (width**2 + sigma**2)
        return eps, eps

    z = standard_normal((1, 1, 100, count // 100), generators([1]), dtype=torch.float64)
    start = sqrt((width**2 + plan.rows[0].sigma ** 2) / (1 + plan.rows[0].sigma ** 2))
    found = float(sample(model, start * z, plan, generators([2])).std())
    assert log(found / width) == pytest.approx(spread_error(plan, width), abs=5 / sqrt(2 * count))


@pytest.mark.parametrize("width", [0.3, 1.0])
@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"history": 0.0}, 1),
        ({"history": 0.5}, 1),
        ({"history": 1.0}, 2),
        ({"history": 0.0, "corrector": True}, 2),
        ({"history": 0.5, "corrector": True}, 2),
    ],
)
def test_weak_order(options, order, width, schedule):
    """The default is of weak order 1; with the corrector it is of weak order 2."""
    errors = {n: weak_error(schedule, n, width, **options) for n in (250, 500)}
    assert order_shown(errors) == pytest.approx(order, abs=0.1)


def test_at_twenty_evaluations_the_corrector_keeps_the_spread_better(schedule):
    for width in (0.3, 1.0, 3.0):
        plain = weak_error(schedule, 20, width, history=0.5)
        assert weak_error(schedule, 20, width, history=0.5, corrector=True) < plain / 2


# --- refusals and the history -------------------------------------------------------------------


def test_too_few_generators_are_refused(schedule):
    plan = compile_plan("euler_a", schedule, 4)
    with pytest.raises(ValueError, match="1 generators for a batch of 2; pass one per image"):
        sample(lambda z, t: (z, z), torch.zeros(2, 4, 2, 2), plan, generators([1]))


@pytest.mark.parametrize("order", [2, 3])
def test_history_goes_from_first_order_to_the_whole_extrapolation(order, schedule):
    """It blends the weights linearly, on noisy steps alone."""
    options = {"eta": 1.0, "window": (0.5, 20.0)}
    guidance = {"omega": 5.0, "shape": "constant", "cap": inf, "grid": "karras"}
    plans = [
        compile_plan("exp2m_cfg++", schedule, 12, order=order, history=h, **options, **guidance)
        for h in (0.0, 0.25, 1.0)
    ]
    whole = compile_plan("res_2m", schedule, 12, order=order, **options, **guidance)
    assert plans[2].rows == whole.rows
    assert [plan.order for plan in plans] == [1, 1, order]
    for first, part, full in zip(*plans, strict=True):
        if first.carry.noise:
            assert not any(first.carry.uncond[1:])
        for a, b, c in zip(first.carry.uncond, part.carry.uncond, full.carry.uncond, strict=True):
            assert b == pytest.approx(0.75 * a + 0.25 * c, abs=1e-12)


def test_history_must_be_a_share(schedule):
    with pytest.raises(ValueError, match=r"history is 1\.5; it must be from 0 to 1"):
        compile_plan("exp2m_cfg++", schedule, 12, eta=1.0, history=1.5)
