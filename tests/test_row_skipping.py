"""Evaluations whose ω is exactly 1 or 0 ask the network for one row, and nothing else changes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from samplers import Plan, as_epsilon, compile_plan, sample, trajectory

INTERVAL = {"interval": (0.5, 5.0)}


class Rows:
    """A network that can be asked for one row, and keeps what it was asked for."""

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, z, t):
        self.asked.append("both")
        return torch.tanh(z), torch.sin(z)

    def uncond_row(self, z, t):
        self.asked.append("uncond")
        return torch.tanh(z)

    def cond_row(self, z, t):
        self.asked.append("cond")
        return torch.sin(z)

    @property
    def rows(self) -> int:
        return sum(2 if name == "both" else 1 for name in self.asked)


def noise():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def both(z, t):
    return torch.tanh(z), torch.sin(z)


@pytest.mark.parametrize("name", ["ddim", "dpm2m", "dpm2s"])
@pytest.mark.parametrize(("scale", "asked"), [(1.0, "cond"), (0.0, "uncond"), (2.0, "both")])
def test_plain_guidance_of_one_or_nothing_needs_one_row(name, scale, asked, schedule):
    plan, model = compile_plan(name, schedule, 6, scale=scale), Rows()
    steps = list(trajectory(model, noise(), plan))
    assert model.asked == [asked] * 6
    assert plan.unet_rows == model.rows == (12 if asked == "both" else 6)
    assert plan.nfe == 6
    expected = list(trajectory(both, noise(), plan))
    for a, b in zip(steps, expected, strict=True):
        assert torch.equal(a.latent, b.latent) and torch.equal(a.denoised, b.denoised)


def test_outside_an_interval_the_conditional_row_is_enough(schedule):
    plan, model = compile_plan("exp2m_cfg++", schedule, 12, omega=4.0, **INTERVAL), Rows()
    out = sample(model, noise(), plan)
    assert model.asked == [
        "both" if 0.5 < row.sigma <= 5.0 or row.weight != 1 else "cond" for row in plan
    ]
    assert 12 < plan.unet_rows == model.rows < 24
    torch.testing.assert_close(out, sample(both, noise(), plan), rtol=0, atol=0)


@pytest.mark.parametrize(("scale", "rows"), [(0.6, 10), (1.0, 9), (0.0, 5)])
def test_kicks_need_both_rows(scale, rows, schedule):
    """CFG++ as published renoises with ε_u; at λ = 1 the last step, to σ = 0, is D_c alone."""
    assert compile_plan("ddim_cfg++", schedule, 5, scale=scale).unet_rows == rows


def test_a_plan_read_from_a_file_needs_the_same_rows(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 12, omega=4.0, **INTERVAL)
    assert Plan.from_json(plan.to_json()).unet_rows == plan.unet_rows


def test_plain_functions_keep_working(schedule):
    plan, calls = compile_plan("ddim", schedule, 4, scale=1.0), []

    def model(z, t):
        calls.append(t)
        return both(z, t)

    sample(model, noise(), plan)
    assert len(calls) == 4
    assert all(a > b for a, b in pairwise(calls))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_converted_networks_can_be_asked_for_one_row(kind, schedule):
    plan, model = compile_plan("ddim", schedule, 4, scale=1.0), Rows()
    out = sample(as_epsilon(model, kind, schedule), noise(), plan)
    assert model.asked == ["cond"] * 4
    torch.testing.assert_close(out, sample(as_epsilon(both, kind, schedule), noise(), plan))


def test_a_network_that_keeps_its_embeddings_by_these_names_is_asked_for_both_rows(schedule):
    class Own:
        cond = uncond = torch.ones(2, 2)

        def __call__(self, z, t):
            return both(z, t)

    plan = compile_plan("ddim", schedule, 4, scale=1.0)
    torch.testing.assert_close(sample(Own(), noise(), plan), sample(both, noise(), plan))
