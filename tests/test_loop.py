"""The sampling loop: precision, what the network sees, what a step offers, what is never done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from samplers import Plan, Row, Update, compile_plan, generators, sample, trajectory
from samplers.schedule import alpha_of


def network(z, t):
    return torch.tanh(z), torch.sin(z)


def noise(dtype=torch.float32, batch=2):
    return torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "dpm2s", "dpm++_2m_cfgpp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_network_sees_the_noises_dtype_and_the_state_is_wide(dtype, name, schedule):
    plan, seen = compile_plan(name, schedule, 6), []

    def model(z, t):
        seen.append((z.dtype, t.dtype, t.ndim, z.shape))
        return network(z, t)

    out = sample(model, noise(dtype), plan, generators([1, 2]))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert seen == [(dtype, wide, 0, out.shape)] * 6
    assert out.dtype == wide and torch.isfinite(out).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_at_the_highest_noise_and_close(dtype, schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 20, scale=1.0)
    half, full = (  # the same noise for both: rounding z_T would seed another
        sample(network, noise(d), plan, generators([1, 2])) for d in (dtype, torch.float32)
    )
    assert torch.isfinite(half).all()
    assert (half - full).abs().mean() < 0.2 * full.abs().mean()


def test_double_keeps_its_precision(schedule):
    plan = compile_plan("dpm2m", schedule, 10, scale=1.0)
    double, single = (sample(network, noise(d), plan) for d in (torch.float64, torch.float32))
    assert 0 < (double - single).abs().max() < 1e-2


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm2s", "ddim_cfg++"])
def test_steps_describe_the_rows(name, schedule):
    plan = compile_plan(name, schedule, 7)
    steps = list(trajectory(network, noise(), plan))
    assert [s.index for s in steps] == list(range(7))
    assert [s.sigma for s in steps] == [row.sigma for row in plan]
    assert [s.timestep for s in steps] == [row.timestep for row in plan]
    assert all(s.latent.shape == s.denoised.shape == (2, 4, 4, 4) for s in steps)
    assert torch.equal(steps[-1].latent, sample(network, noise(), plan))


def test_denoised_is_the_guided_estimate(schedule):
    plan = compile_plan("ddim", schedule, 3, scale=4.0)
    step = next(trajectory(network, noise(), plan))
    x, (uncond, cond) = (
        noise() * plan.start,
        network(noise() * plan.start * alpha_of(step.sigma), 0),
    )
    expected = x - step.sigma * (uncond + 4.0 * (cond - uncond))
    torch.testing.assert_close(step.denoised, expected, rtol=1e-4, atol=1e-3)


def test_first_input_is_the_noise_itself(schedule):
    """√(1 + σ_0²)·z in VE units is z in the network's own."""
    seen = []
    plan = compile_plan("exp2m_cfg++", schedule, 2)
    sample(lambda z, t: seen.append(z) or network(z, t), noise(), plan)
    torch.testing.assert_close(seen[0], noise())


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm2s", "dpm2m"])
def test_assigning_the_latent_changes_the_run(name, schedule):
    plan = compile_plan(name, schedule, 6)

    def run(edit):
        for step in trajectory(network, noise(), plan):
            if step.index == 3:
                edit(step)
        return step.latent

    def keep(step):
        step.latent = step.latent

    def erase(step):
        step.latent = torch.zeros_like(step.latent, dtype=torch.float16)

    def write(step):
        step.latent.zero_()

    plain = sample(network, noise(), plan)
    assert torch.equal(run(keep), plain)
    edited = run(erase)
    assert torch.equal(run(write), edited)
    with torch.inference_mode():
        assert torch.equal(run(write), edited)
    assert edited.dtype == torch.float32 and not torch.allclose(edited, plain, atol=1e-3)


def test_corrector_takes_an_assigned_latent(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 4, corrector=True, eta=0.0)
    for step in trajectory(network, noise(), plan):
        step.latent = torch.full_like(step.latent, 0.5)
    assert torch.equal(step.latent, torch.full((2, 4, 4, 4), 0.5))


@pytest.mark.parametrize("name", ["karras", "karras_unfinished"])
def test_result_is_in_the_networks_units(name, schedule):
    """Where a plan ends above σ = 0 the result is α·x: on data of variance 1 it has variance 1."""
    plan = compile_plan("ddim", schedule, 400, scale=1.0, grid=name)
    rows = iter(plan)

    def model(z, t):  # data N(0, 1): D = x/(1 + σ²)
        sigma = next(rows).sigma
        eps = sigma * alpha_of(sigma) * z
        return eps, eps

    out = sample(model, torch.randn(1, 4, 64, 64, dtype=torch.float64), plan)
    assert float(out.std()) == pytest.approx(1, abs=0.03)


# --- what it never does --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "dpm2s", "ddim"])
def test_inputs_and_outputs_of_the_network_are_not_modified(name, schedule):
    plan, z, kept = compile_plan(name, schedule, 6), noise(), []

    def model(z, t):
        pair = network(z, t)
        kept.append((z, z.clone(), pair, tuple(p.clone() for p in pair)))
        return pair

    sample(model, z, plan, generators([1, 2]))
    assert torch.equal(z, noise())
    for seen, copy, pair, copies in kept:
        assert torch.equal(seen, copy)
        assert all(torch.equal(a, b) for a, b in zip(pair, copies, strict=True))


def test_earlier_steps_are_not_overwritten(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 6)
    steps, copies = [], []
    for step in trajectory(network, noise(), plan):
        steps.append(step)
        copies.append((step.latent.clone(), step.denoised.clone()))
    for step, (latent, denoised) in zip(steps, copies, strict=True):
        assert torch.equal(step.latent, latent) and torch.equal(step.denoised, denoised)


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "dpm2s", "dpm++_2m_cfg++"])
def test_nothing_waits_for_the_device(name, schedule):
    """Not one value is read back: the meta device has none to read, and the profiler sees none."""
    plan = compile_plan(name, schedule, 6)
    out = sample(network, noise().to("meta"), plan, generators([1, 2]))
    assert out.device.type == "meta" and out.shape == (2, 4, 4, 4)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        sample(network, noise(), plan, generators([1, 2]))
    called = {event.key for event in record.key_averages()}
    assert not called & {"aten::_local_scalar_dense", "aten::item", "aten::nonzero"}


def test_no_gradients_are_recorded_and_the_setting_is_left_alone(schedule):
    scale = torch.ones(1, requires_grad=True)
    plan = compile_plan("ddim", schedule, 3)
    run = trajectory(lambda z, t: (z * scale, z * scale), noise(), plan)
    assert not next(run).latent.requires_grad
    assert torch.is_grad_enabled()


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4])
def test_outputs_of_another_shape_are_refused(batch, schedule):
    """A network that returns both rows as one batch, say."""
    plan = compile_plan("ddim", schedule, 3)
    other = torch.zeros(batch, 4, 4, 4)
    message = rf"returned shapes \({batch}, 4, 4, 4\) and \({batch}, 4, 4, 4\) for an input of \(2,"
    with pytest.raises(ValueError, match=message):
        sample(lambda z, t: (other, other), noise(), plan)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ({"sample": 0}, r"returned a dict, not the pair .* pass .sample.chunk\(2\)"),
        (torch.zeros(4, 4, 4, 4), "returned a Tensor, not the pair"),
        (torch.zeros(2, 4, 4, 4), r"returned shapes .* must return the pair"),
        (None, "returned a NoneType, not the pair"),
    ],
)
def test_anything_but_a_pair_is_refused(out, message, schedule):
    with pytest.raises(ValueError, match=message):
        sample(lambda z, t: out, noise(), compile_plan("ddim", schedule, 3))


def test_one_generator_for_all_is_refused(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 3)
    with pytest.raises(ValueError, match=r"is one torch.Generator; pass a list with one"):
        sample(network, noise(), plan, torch.Generator())


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm2s"])
def test_inference_mode_gives_the_same_images(name, schedule):
    plan = compile_plan(name, schedule, 4)
    with torch.inference_mode():
        inside = sample(network, noise(), plan, generators([1, 2]))
    assert torch.equal(inside, sample(network, noise(), plan, generators([1, 2])))


def test_a_plan_by_hand_runs(schedule):
    """A probe, a weight on the second-last estimate and none on the last, in two rows."""
    rows = (
        Row(1.0, 5.0, 1.0, Update(1.0, 1.0), Update(0.5, 0.5, (0.5,), (0.5,))),
        Row(0.5, 2.0, 1.0, Update(0.0, 0.0, (0.0, 1.0), (0.0, 1.0))),
    )
    plan = Plan("mine", rows, 2**0.5, 1, "cfg", True, 1.0)
    first = next(trajectory(network, noise(), replace(plan, rows=rows)))
    torch.testing.assert_close(sample(network, noise(), plan), first.denoised)
