"""Whole trajectories against diffusers' schedulers, on the schedulers' own noise levels.

Both sides see the same weightless network. diffusers computes in float32, hence the tolerance.
"""

from __future__ import annotations

from itertools import islice, pairwise
from math import log

import pytest
import torch
from reference import states, toy_epsilon, toy_network

from samplers import NoiseSchedule, compile_plan, generators, standard_normal, trajectory

diffusers = pytest.importorskip("diffusers")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
OMEGA = 5.0
SEEDS = (3, 4)
Z = standard_normal((2, 4, 5, 5), generators(SEEDS))


def configured(name: str, n: int, **options):
    scheduler = getattr(diffusers, name)(**SD, **options)
    scheduler.set_timesteps(n)
    return scheduler


def levels_of(scheduler) -> list[float]:
    """The noise levels that a scheduler visits; DDIM has no list of them, and ends at ᾱ = 1."""
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.tolist()
    table = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return [*((1 - table) / table).sqrt().tolist(), 0.0]


def drive(scheduler, start: float, *, ve: bool = False, noise: bool = False, **step_options):
    """Run a scheduler as a pipeline would; return the state after each step, in VE units."""
    levels = levels_of(scheduler)
    sources = generators(SEEDS)
    x, out = Z * start if ve else Z, []
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        uncond, cond = toy_epsilon(scheduler.scale_model_input(x, t), levels[i])
        if noise:
            step_options["variance_noise"] = standard_normal(Z.shape, sources)
        x = scheduler.step(uncond + OMEGA * (cond - uncond), t, x, **step_options).prev_sample
        out.append(x if ve else x * (1 + levels[i + 1] ** 2) ** 0.5)
    return out


def compiled(name: str, scheduler, **options):
    schedule, levels = NoiseSchedule.from_scheduler(scheduler), levels_of(scheduler)
    return compile_plan(name, schedule, len(levels) - 1, omega=OMEGA, grid=levels, **options)


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4, msg=lambda m, i=i: f"step {i}: {m}")


# --- DDIM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 20, 50])
def test_ddim(n):
    scheduler = configured("DDIMScheduler", n, **LEADING, set_alpha_to_one=True, clip_sample=False)
    plan = compiled("ddim", scheduler)
    same(states(plan, Z), drive(scheduler, plan.start))
    by_name = compile_plan("ddim", NoiseSchedule.from_scheduler(scheduler), n, omega=OMEGA)
    assert [row.timestep for row in by_name] == scheduler.timesteps.tolist()
    assert [row.sigma for row in by_name] == pytest.approx([row.sigma for row in plan])


def test_ddim_of_stable_diffusion_ends_at_the_first_alpha_and_ours_at_zero():
    """SD's config (set_alpha_to_one=False) steps from t = 1 to ᾱ_0: σ = 0.029 of noise is left."""
    scheduler = configured(
        "DDIMScheduler", 20, **LEADING, set_alpha_to_one=False, clip_sample=False
    )
    ours, theirs = states(compiled("ddim", scheduler), Z), drive(scheduler, 1.0)
    same(ours[:-1], theirs[:-1])
    schedule = NoiseSchedule.from_scheduler(scheduler)
    noisy_end = [*levels_of(scheduler)[:-1], schedule.sigma_min]
    plan = compile_plan("ddim", schedule, 20, omega=OMEGA, grid=noisy_end)
    last = theirs[-1] * (1 + schedule.sigma_min**2) ** 0.5
    torch.testing.assert_close(states(plan, Z)[-1], last, rtol=2e-4, atol=2e-4)
    assert not torch.allclose(ours[-1], last, atol=1e-3)


# --- DPM-Solver++ --------------------------------------------------------------------------------

PINNED = {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "lower_order_final": False}
MULTISTEP = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("spacing", [LEADING, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("n", [2, 10, 20])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpm2m", {"solver_order": 2, "solver_type": "midpoint"}),
        ("res_2m", {"solver_order": 2, "solver_type": "heun"}),
        ("dpm3m", {"solver_order": 3, "solver_type": "heun"}),
    ],
)
def test_dpm_multistep(name, options, n, spacing):
    scheduler = configured(MULTISTEP, n, **PINNED, **options, **spacing)
    plan = compiled(name, scheduler)
    same(states(plan, Z), drive(scheduler, plan.start))


def test_dpm_multistep_lower_order_final_changes_nothing_for_second_order_to_zero():
    """A last step to σ = 0 is of first order either way; `euler_at_final` says the same."""
    for options in ({"lower_order_final": True}, {"euler_at_final": True}):
        scheduler = configured(MULTISTEP, 10, solver_order=2, **(PINNED | options))
        plan = compiled("dpm2m", scheduler)
        same(states(plan, Z), drive(scheduler, plan.start))


def test_dpm_third_order_lowers_its_last_but_one_step_below_fifteen_and_ours_does_not():
    """diffusers' `lower_order_final` takes second order there; k-diffusion and we stay at third."""
    options = PINNED | {"lower_order_final": True, "solver_order": 3, "solver_type": "heun"}
    scheduler = configured(MULTISTEP, 10, **options)
    plan = compiled("dpm3m", scheduler)
    ours, theirs = states(plan, Z), drive(scheduler, plan.start)
    same(ours[:-2], theirs[:-2])
    assert not torch.allclose(ours[-2], theirs[-2], atol=1e-3)


def test_dpm_third_order_with_midpoint_start_differs_from_the_exact_start():
    """solver_type "midpoint" takes 2M's weight in step 1, k-diffusion and we the exact φ_2."""
    scheduler = configured(MULTISTEP, 10, **PINNED, solver_order=3, solver_type="midpoint")
    plan = compiled("dpm3m", scheduler)
    ours, theirs = states(plan, Z), drive(scheduler, plan.start)
    same(ours[:1], theirs[:1])
    assert not torch.allclose(ours[1], theirs[1], atol=1e-4)


SDE = PINNED | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}


def test_sde_dpm_multistep():
    """The reverse SDE at η = 1 with the same noise, exact weights ("heun")."""
    scheduler = configured(MULTISTEP, 12, **SDE, solver_order=2, use_karras_sigmas=True)
    plan = compiled("res_2m", scheduler, eta=1.0)
    same(states(plan, Z, generators(SEEDS)), drive(scheduler, plan.start, noise=True))


def test_sde_dpm_third_order_differs_by_a_sign_in_diffusers():
    """Its SDE weight of the second difference is −φ_3 − 1, k-diffusion's and ours −φ_3.

    diffusers' own ODE weight is −φ_3 as well, −((e^{−h} − 1 + h)/h² − 0.5); in its SDE branch the
    minus went into the fraction and not into the 0.5.
    """
    scheduler = configured(MULTISTEP, 12, **SDE, solver_order=3, use_karras_sigmas=True)
    plan = compiled("dpm3m_sde", scheduler, eta=1.0)
    ours = states(plan, Z, generators(SEEDS))
    theirs = drive(scheduler, plan.start, noise=True)
    same(ours[:2], theirs[:2])
    run = trajectory(toy_network(plan), Z, plan, generators(SEEDS))
    d2, d1, d0 = (step.denoised for step in islice(run, 3))
    lam = [-log(row.sigma) for row in plan.rows[:4]]
    h2, h1, h = (b - a for a, b in pairwise(lam))
    second = ((d0 - d1) * h / h1 - (d1 - d2) * h / h2) * h / (h1 + h2)
    same([ours[2] - second], [theirs[2]])


@pytest.mark.parametrize("n", [5, 8, 20])
def test_dpm_singlestep(n):
    """Pairs of levels, then first order for what is left; the probe is diffusers' odd state."""
    scheduler = configured(
        "DPMSolverSinglestepScheduler",
        n,
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=True,
        final_sigmas_type="zero",
    )
    plan = compiled("dpm2s", scheduler)
    ours, theirs = states(plan, Z), drive(scheduler, plan.start)
    kept = [i for i, row in enumerate(plan) if row.probe is None]
    assert len(kept) == n - (n - 1) // 2
    same([ours[i] for i in kept], [theirs[i] for i in kept])


# --- Euler ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [LEADING, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("n", [3, 20])
def test_euler(n, options):
    scheduler = configured("EulerDiscreteScheduler", n, **options)
    plan = compiled("euler", scheduler)
    same(states(plan, Z), drive(scheduler, plan.start, ve=True))


def test_euler_ancestral(monkeypatch):
    """diffusers draws for the whole batch from one generator; here it is handed our noise."""
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    scheduler = configured("EulerAncestralDiscreteScheduler", 12, **LEADING)
    plan, sources = compiled("euler_a", scheduler), generators(SEEDS)
    monkeypatch.setattr(
        module, "randn_tensor", lambda shape, **options: standard_normal(shape, sources)
    )
    same(states(plan, Z, generators(SEEDS)), drive(scheduler, plan.start, ve=True))


def test_unipc():
    """Whole trajectory: the carry is diffusers' corrected sample, one evaluation behind its own."""
    scheduler = configured(
        "UniPCMultistepScheduler",
        10,
        solver_order=2,
        final_sigmas_type="zero",
        use_karras_sigmas=True,
    )
    levels = levels_of(scheduler)
    plan = compiled("unipc", scheduler)
    x, theirs = Z, []
    scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        uncond, cond = toy_epsilon(x, levels[i])
        x = scheduler.step(uncond + OMEGA * (cond - uncond), t, x).prev_sample
        theirs.append(scheduler.last_sample * (1 + levels[i] ** 2) ** 0.5)
    same(states(plan, Z), [*theirs[:-1], x])


def test_unipc_where_its_weights_are_exact():
    """From the fourth evaluation on, UniPC-3 is our third order with corrector, row by row.

    Before that diffusers replaces the exact weights of the low orders by 1/2, and it ends on lower
    orders. So the rows between are compared one by one, each of ours applied to diffusers' own
    states and estimates.
    """
    n = 10
    scheduler = configured(
        "UniPCMultistepScheduler",
        n,
        solver_order=3,
        final_sigmas_type="zero",
        lower_order_final=True,  # without it diffusers solves a singular system at σ = 0
        use_karras_sigmas=True,
    )
    levels = levels_of(scheduler)
    plan = compiled("exp2m_cfg++", scheduler, order=3, corrector=True, eta=0)
    x, seen, corrected = Z, [], []
    scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        eps = toy_epsilon(x, levels[i])[1]
        scale = (1 + levels[i] ** 2) ** 0.5
        seen.insert(0, x * scale - levels[i] * eps)
        before = corrected[-1] if corrected else None
        x = scheduler.step(eps, t, x).prev_sample
        corrected.append(scheduler.last_sample * scale)
        row = plan.rows[i]
        if 3 <= i < n - 2:
            ours = row.carry.state * before
            ours = ours + sum(c * d for c, d in zip(row.carry.uncond, seen, strict=False))
            torch.testing.assert_close(ours, corrected[-1], rtol=2e-4, atol=2e-4)
            ahead = row.probe.state * ours
            ahead = ahead + sum(c * d for c, d in zip(row.probe.uncond, seen, strict=False))
            theirs = x * (1 + levels[i + 1] ** 2) ** 0.5
            torch.testing.assert_close(ahead, theirs, rtol=2e-4, atol=2e-4)
