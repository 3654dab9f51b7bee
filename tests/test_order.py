"""The order that a recipe declares against the order that it shows, with exact references.

Each case runs the real loop in float64 on a grid that is uniform in λ and ends above σ = 0.
"""

from __future__ import annotations

import numpy as np
import pytest
from problems import (
    COND,
    GAUSSIAN,
    HIGH,
    LOW,
    UNCOND,
    end_state,
    gaussian_flow,
    guided_flow,
    slope,
    starts,
    uniform_levels,
)

from samplers import Recipe, available, compile_plan, guidance
from samplers.registry import find

BAND = 0.15
SIZES = (256, 512)  # third order needs finer grids before the start-up's own error is small
FINER = (500, 1000)


def deterministic(recipe: Recipe) -> tuple[str, dict]:
    return recipe.name, {"eta": 0.0} if recipe.stochastic else {}


RECIPES = [deterministic(r) for r in available()]
RATES = [deterministic(r) for r in available() if not r.kicks]
KICKS = [deterministic(r) for r in available() if r.kicks]


def smooth_bell(sigma: float) -> float:
    """A rate of the shape of `guidance.bell`, without the kinks of a table of timesteps."""
    return 0.4 + 3.0 * float(np.exp(-(np.log(sigma) ** 2) / 4))


def measured(schedule, name, laws, exact, sizes=None, **options) -> tuple[float, int]:
    """Return the slope of the largest error over eight starting points, and the declared order."""
    errors, x = {}, starts()
    for n in sizes or (FINER if name == "exp3m" else SIZES):
        levels = uniform_levels(find(name).steps(n))
        plan = compile_plan(name, schedule, n, grid=levels, **options)
        errors[n] = float(np.abs(end_state(plan, *laws, x) - exact).max())
    return slope(errors), plan.order


@pytest.fixture(scope="module")
def exact() -> dict[str, np.ndarray]:
    x = starts()
    return {
        "gaussian": gaussian_flow(GAUSSIAN, x, HIGH, LOW),
        "unguided": guided_flow(UNCOND, UNCOND, lambda sigma: 0.0, x),
        "constant": guided_flow(UNCOND, COND, lambda sigma: 2.0, x),
        "smooth bell": guided_flow(UNCOND, COND, smooth_bell, x),
    }


def test_the_reference_agrees_with_the_closed_form():
    x = starts()
    solved = guided_flow(GAUSSIAN, GAUSSIAN, lambda sigma: 0.0, x)
    np.testing.assert_allclose(solved, gaussian_flow(GAUSSIAN, x, HIGH, LOW), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), RECIPES)
def test_declared_order_on_gaussian_data(name, options, schedule, exact):
    laws = (GAUSSIAN, GAUSSIAN)
    order, declared = measured(schedule, name, laws, exact["gaussian"], **options)
    assert order == pytest.approx(declared, abs=BAND)


@pytest.mark.parametrize(("name", "options"), RATES)
def test_declared_order_under_guidance_at_constant_omega(name, options, schedule, exact):
    order, declared = measured(
        schedule, name, (UNCOND, COND), exact["constant"], omega=lambda sigma: 2.0, **options
    )
    assert order == pytest.approx(declared, abs=BAND)


@pytest.mark.parametrize(("name", "options"), KICKS)
def test_declared_order_of_a_kicked_solver_without_its_kick(name, options, schedule, exact):
    """A kick has no limit to have an order about; with D_c = D_u the solver under it has one."""
    laws = (UNCOND, UNCOND)
    order, declared = measured(schedule, name, laws, exact["unguided"], **options)
    assert order == pytest.approx(declared, abs=BAND)


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_of_our_sampler_on_a_guided_equation(order, corrector, schedule, exact):
    found, declared = measured(
        schedule,
        "exp2m_cfg++",
        (UNCOND, COND),
        exact["smooth bell"],
        sizes=(128, 256),
        omega=smooth_bell,
        order=order,
        corrector=corrector,
        eta=0.0,
    )
    assert declared == min(3, order + corrector)
    assert found > declared - BAND
    if order + corrector < 4:  # a corrected third order keeps the fourth until its start-up shows
        assert found < declared + 3 * BAND


def test_our_sampler_integrates_its_own_bell(schedule):
    """Order 2 towards the solution of the guided equation with ω(σ) of the schedule itself."""
    rate, x = guidance.bell(schedule, 0.3), starts(4)
    kinks = [schedule.sigma(t) for t in reversed(range(schedule.num_timesteps))]
    solution = guided_flow(UNCOND, COND, rate, x, start=3.0, end=0.3, kinks=kinks)
    errors = {}
    for n in SIZES:
        levels = uniform_levels(n, 3.0, 0.3)
        plan = compile_plan(
            "exp2m_cfg++", schedule, n, scale=0.3, grid=levels, eta=0.0, shape="bell"
        )
        errors[n] = float(np.abs(end_state(plan, UNCOND, COND, x) - solution).max())
    assert slope(errors) == pytest.approx(2, abs=BAND)


def test_published_third_order_is_of_order_two_and_exact_weights_are_of_order_three(
    schedule, exact
):
    laws, solution = (GAUSSIAN, GAUSSIAN), exact["gaussian"]
    published, _ = measured(schedule, "dpm3m", laws, solution)
    ours, _ = measured(schedule, "exp3m", laws, solution)
    assert (published, ours) == (pytest.approx(2, abs=BAND), pytest.approx(3, abs=BAND))


# --- the kick has no limit -----------------------------------------------------------------------


def alignment(schedule, name: str, n: int, scale: float, **options) -> float:
    """Return the mean of ln p_c(x) − ln p_u(x) over samples that n evaluations make."""
    x = starts(400, schedule.sigma_max)
    plan = compile_plan(name, schedule, n, scale=scale, **options)
    out = end_state(plan, UNCOND, COND, x)
    return float(np.mean(COND.log_density(out) - UNCOND.log_density(out)))


def drift(schedule, name: str, **options) -> float:
    few, many = (alignment(schedule, name, n, 0.3, grid="uniform", **options) for n in (10, 100))
    return abs(many - few)


@pytest.mark.parametrize(("name", "options"), KICKS)
def test_alignment_drifts_with_nfe_under_a_kick_and_not_under_our_rate(name, options, schedule):
    ours, kick = drift(schedule, "exp2m_cfg++", eta=0.0), drift(schedule, name, **options)
    assert ours < 0.02
    assert kick > 0.5
