"""NoiseSchedule: timesteps to noise levels and back."""

from __future__ import annotations

from math import inf, nan, sqrt
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from samplers import NoiseSchedule
from samplers.schedule import alpha_of

TABLE = [0.999 * 0.99**t for t in range(200)]
SHORT = NoiseSchedule(TABLE)


def test_stable_diffusion_levels(schedule):
    assert schedule.num_timesteps == 1000
    assert schedule.sigma_min == pytest.approx(0.0291672, abs=1e-6)
    assert schedule.sigma_max == pytest.approx(14.6146412, abs=1e-4)


def test_whole_timesteps_are_exact_both_ways(schedule):
    for t in range(1000):
        a = schedule.alphas_cumprod[t]
        assert schedule.sigma(t) == sqrt((1 - a) / a)
        assert schedule.timestep(schedule.sigma(t)) == t


@given(st.floats(0, 199))
def test_timestep_inverts_sigma(t):
    assert SHORT.timestep(SHORT.sigma(t)) == pytest.approx(t, abs=2e-6)


@given(st.floats(SHORT.sigma_min, SHORT.sigma_max))
def test_sigma_inverts_timestep(sigma):
    assert SHORT.sigma(SHORT.timestep(sigma)) == pytest.approx(sigma, rel=1e-6)


@given(st.floats(0, 198.9), st.floats(1e-3, 0.1))
def test_sigma_increases_with_the_timestep(t, step):
    assert SHORT.sigma(t + step) > SHORT.sigma(t)


def test_timestep_is_clamped_to_the_schedule(schedule):
    assert schedule.timestep(1e-4) == 0
    assert schedule.timestep(1e4) == 999


@given(st.floats(1e-4, 1e3))
def test_alpha_and_sigma_make_a_unit(sigma):
    alpha = alpha_of(sigma)
    assert alpha**2 + (alpha * sigma) ** 2 == pytest.approx(1)


@pytest.mark.parametrize(
    "form", [list, tuple, torch.tensor, lambda x: torch.tensor(x, dtype=torch.float64).numpy()]
)
def test_any_one_dimensional_array_will_do(form):
    assert NoiseSchedule(form(TABLE)).alphas_cumprod == pytest.approx(TABLE, rel=1e-6)


@pytest.mark.parametrize("prepended", [False, True])
def test_from_scheduler_drops_a_prepended_one(prepended):
    table = torch.tensor([1.0] * prepended + TABLE, dtype=torch.float64)
    found = NoiseSchedule.from_scheduler(SimpleNamespace(alphas_cumprod=table))
    assert found.alphas_cumprod == tuple(TABLE)


def test_from_scheduler_reads_zero_terminal_snr_as_diffusers_euler_does():
    config = {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"}
    euler = EulerDiscreteScheduler(**config, beta_start=0.00085, beta_end=0.012)
    ddim = DDIMScheduler(**config, beta_start=0.00085, beta_end=0.012)
    assert ddim.alphas_cumprod[-1] == 0
    found = NoiseSchedule.from_scheduler(ddim)
    assert found.sigma_max == pytest.approx(float(euler.sigmas.max()), rel=1e-6)


def test_zero_terminal_snr_below_the_usual_stand_in():
    """Linear betas, rescaled, have less than 2⁻²⁴ before the last timestep already."""
    ddim = DDIMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True)
    before, last = NoiseSchedule.from_scheduler(ddim).alphas_cumprod[-2:]
    assert 0 < last == before / 2


def test_a_scheduler_without_a_table_is_refused():
    with pytest.raises(ValueError, match=r"SimpleNamespace has no alphas_cumprod; .*flow matching"):
        NoiseSchedule.from_scheduler(SimpleNamespace(sigmas=[1.0]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "alphas_cumprod has 0 entries; a schedule needs at least 2"),
        ([0.5], "alphas_cumprod has 1 entries; a schedule needs at least 2"),
        ([1.0, 0.5], r"alphas_cumprod\[0\] is 1.0; every entry must lie inside \(0, 1\) \(drop"),
        ([0.5, 0.0], r"alphas_cumprod\[1\] is 0.0; .*clip a zero terminal SNR"),
        ([0.5, nan], r"alphas_cumprod\[1\] is nan; every entry must lie inside"),
        ([0.5, 0.6], r"alphas_cumprod\[1\] = 0.6 does not decrease; pass the cumulative product"),
    ],
)
def test_refused_tables(table, message):
    with pytest.raises(ValueError, match=message) as caught:
        NoiseSchedule(table)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("t", [-0.5, 999.5, 1000, nan])
def test_timesteps_outside_are_refused(t, schedule):
    with pytest.raises(ValueError, match=rf"timestep {t} lies outside \[0, 999\]"):
        schedule.sigma(t)


@pytest.mark.parametrize("sigma", [0.0, -1.0, inf, nan])
def test_noise_levels_that_are_none_are_refused(sigma, schedule):
    with pytest.raises(ValueError, match=f"sigma is {sigma}; a noise level must be positive"):
        schedule.timestep(sigma)
