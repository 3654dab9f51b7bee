"""Networks that predict v or x0, as ε-networks."""

from __future__ import annotations

import pytest
import torch

from samplers import as_epsilon, compile_plan, sample
from samplers.schedule import alpha_of


def truth(z, t):
    return torch.tanh(z), torch.sin(z)


def predictor(kind, schedule):
    """The network `truth` as it would speak if it had been trained to predict `kind`."""

    def model(z, t):
        sigma = schedule.sigma(float(t))
        alpha, sigma_vp = alpha_of(sigma), sigma * alpha_of(sigma)
        out = []
        for eps in truth(z.double(), t):
            x0 = (z.double() - sigma_vp * eps) / alpha
            forms = {"epsilon": eps, "v_prediction": alpha * eps - sigma_vp * x0, "sample": x0}
            out.append(forms[kind].to(z.dtype))
        return tuple(out)

    return model


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0.0, 3.25, 500.5, 998.75, 999.0])
def test_epsilon_is_recovered_at_fractional_timesteps(kind, t, schedule):
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    model = as_epsilon(predictor(kind, schedule), kind, schedule)
    for found, expected in zip(
        model(z, torch.tensor(t, dtype=torch.float64)), truth(z, t), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_networks_are_converted_in_float32(kind, dtype, schedule):
    z = torch.randn(1, 4, 3, 3).to(dtype)
    model = as_epsilon(predictor(kind, schedule), kind, schedule)
    for eps in model(z, torch.tensor(400.0)):
        assert eps.dtype == torch.float32 and torch.isfinite(eps).all()


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_a_whole_run_agrees(kind, schedule):
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    plan = compile_plan("exp2m_cfg++", schedule, 12)
    wrapped = as_epsilon(predictor(kind, schedule), kind, schedule)
    torch.testing.assert_close(
        sample(wrapped, z, plan), sample(truth, z, plan), rtol=1e-6, atol=1e-6
    )


def test_epsilon_networks_are_returned_as_they_are(schedule):
    assert as_epsilon(truth, "epsilon", schedule) is truth


def test_conversion_does_not_wait_for_the_device(schedule):
    model = as_epsilon(truth, "v_prediction", schedule)
    z, t = torch.empty(1, 4, 3, 3, device="meta"), torch.empty((), device="meta")
    assert all(eps.device.type == "meta" for eps in model(z, t))


def test_unknown_prediction_type(schedule):
    message = (
        "unknown prediction type 'v-prediction'; did you mean 'v_prediction'\\? Known: epsilon,"
    )
    with pytest.raises(ValueError, match=message):
        as_epsilon(truth, "v-prediction", schedule)


def test_what_is_no_pair_is_refused_before_it_is_converted(schedule):
    plan, z = compile_plan("ddim", schedule, 2), torch.randn(3, 4, 3, 3)
    for wrong, said in (
        (lambda z, t: (z[:1], z[:1]), r"shapes \(1, 4, 3, 3\)"),
        (lambda z, t: torch.cat([z, z]), r"pass .sample.chunk\(2\)"),
    ):
        with pytest.raises(ValueError, match=said):
            sample(as_epsilon(wrong, "v_prediction", schedule), z, plan)
