"""Noise along one Brownian path: standard normal at every step, and the same path at any NFE."""

from __future__ import annotations

from itertools import pairwise
from math import log

import numpy as np
import pytest
import torch
from problems import COND, UNCOND, Mixture, network

from samplers import NoiseSchedule, Plan, compile_plan, generators, sample
from samplers.path import CELL, BrownianPath, spans


def drawn(plan: Plan, seeds: list[int], side: int) -> list[torch.Tensor]:
    path, like = BrownianPath(plan, generators(seeds)), torch.empty(len(seeds), 1, side, side)
    return [path(like) for row in plan if row.carry.noise]


def test_noises_are_standard_normal_and_independent_of_each_other(schedule):
    noises = torch.stack(drawn(compile_plan("exp2m_cfg++", schedule, 12, noise="path"), [3], 200))
    flat = noises.flatten(1).double()
    found = flat @ flat.T / flat.shape[1]
    torch.testing.assert_close(found, torch.eye(len(flat)).double(), atol=0.03, rtol=0)
    assert flat.mean(1).abs().max() < 0.03


def integrated(plan: Plan, noises: list[torch.Tensor], to: float) -> torch.Tensor:
    """Return the noise that a state gathers down to a level, where D = 0."""
    x, drawn_ones = torch.zeros(()), iter(noises)
    for row in plan:
        if row.carry.sigma < to * 0.999:
            break
        x = x * row.carry.state
        if row.carry.noise:
            x = x + row.carry.noise * next(drawn_ones)
    return x


@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "euler_a"])
def test_more_steps_read_the_same_path(name, schedule):
    """Four steps in place of one gather nearly the same noise; without a path they share none."""
    ends = np.geomspace(14.6, 0.3, 9).tolist()
    finer = np.geomspace(14.6, 0.3, 33).tolist()
    shared = {}
    for noise in ("path", "steps"):
        gathered = []
        for grid in (ends, finer):
            plan = compile_plan(name, schedule, len(grid) - 1, grid=grid, noise=noise)
            if noise == "path":
                noises = drawn(plan, [1], 100)
            else:
                source = generators([1])[0]
                noises = [torch.randn(1, 1, 100, 100, generator=source) for _ in plan]
            gathered.append(integrated(plan, noises, 0.3).flatten())
        shared[noise] = float(torch.corrcoef(torch.stack(gathered))[0, 1])
    assert shared["path"] > 0.98
    assert abs(shared["steps"]) < 0.6


def test_where_a_plan_begins_is_no_matter(schedule):
    """Of a schedule that ends in nearly pure noise: at σ = 4,000, at 50 and at 14."""
    ends_in_noise = NoiseSchedule([*schedule.alphas_cumprod[:-1], 2**-24])
    common, gathered = np.geomspace(14.6, 0.3, 33).tolist(), []
    for before in ([], [50.0], [4000.0, 300.0]):
        grid = [*before, *common]
        plan = compile_plan("exp2m_cfg++", ends_in_noise, len(grid) - 1, grid=grid, noise="path")
        gathered.append(integrated(plan, drawn(plan, [1], 100), 0.3).flatten())
    assert torch.corrcoef(torch.stack(gathered)).min() > 0.99


def test_noise_above_the_usual_levels_is_no_other_seed_s(schedule):
    ends_in_noise = NoiseSchedule([*schedule.alphas_cumprod[:-1], 2**-24])
    plan = compile_plan(
        "exp2m_cfg++", ends_in_noise, 2, grid=[4000.0, 300.0, 20.0], noise="path", eta=1.0
    )
    noises = torch.stack([n.flatten() for k in range(4) for n in drawn(plan, [k], 100)])
    torch.testing.assert_close(torch.corrcoef(noises), torch.eye(8), atol=0.05, rtol=0)


def final(schedule, nfe: int, noise: str, law: tuple[Mixture, Mixture]) -> torch.Tensor:
    plan = compile_plan("exp2m_cfg++", schedule, nfe, omega=1.5, noise=noise, grid="karras")
    z = torch.randn(1, 1, 40, 50, dtype=torch.float64, generator=generators([0])[0])
    return sample(network(*law, plan), z, plan, generators([7]))


def test_samples_of_few_and_of_many_steps_are_alike(schedule):
    """Of 2,000 samples of a mixture most stay in their mode; with unrelated noise they do not."""
    apart = {}
    for noise in ("path", "steps"):
        few, many = (final(schedule, nfe, noise, (UNCOND, COND)) for nfe in (16, 64))
        apart[noise] = float((few - many).abs().mean())
    assert apart["path"] < apart["steps"] / 2


def test_an_image_depends_on_its_own_path_alone(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 6, noise="path")
    model = lambda z, t: (torch.tanh(z), torch.sin(z + t / 1000))  # noqa: E731
    z = torch.randn(3, 4, 6, 6)
    whole = sample(model, z, plan)
    for k in range(3):
        assert torch.equal(sample(model, z[k : k + 1], plan)[0], whole[k])
    assert not torch.equal(whole, sample(model, z, compile_plan("exp2m_cfg++", schedule, 6)))


def test_spans_cover_what_the_noisy_steps_cover(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 12, noise="path", window=(0.5, 5.0))
    found = spans(plan)
    assert all(a[1] == b[0] for a, b in pairwise(found))
    noisy = [row for row in plan if row.carry.noise]
    length = log(noisy[0].sigma / noisy[-1].carry.sigma)
    assert (found[-1][1] - found[0][0]) * CELL == pytest.approx(length, abs=CELL)


def test_a_plan_says_and_keeps_where_its_noise_comes_from(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 6, noise="path")
    assert (plan.noise, plan.options["noise"]) == ("path", "path")
    assert Plan.from_json(plan.to_json()) == plan
    plain = compile_plan("exp2m_cfg++", schedule, 6)
    assert plain.noise == "steps"
    assert Plan.from_json(plain.to_json()) == plain
    with pytest.raises(ValueError, match="unknown noise 'pat'; did you mean 'path'"):
        Plan.from_json(plan.to_json().replace('"noise": "path"', '"noise": "pat"'))


@pytest.mark.parametrize(
    ("name", "nfe", "options", "message"),
    [
        ("ddim", 12, {"noise": "path"}, "sampler 'ddim' draws no noise here; leave out noise"),
        ("exp2m_cfg++", 12, {"noise": "paths"}, "unknown noise 'paths'; did you mean 'path'"),
        ("exp2m_cfg++", 900, {"noise": "path"}, r"resolves steps of 0\.01 in ln sigma, and the st"),
    ],
)
def test_errors(name, nfe, options, message, schedule):
    with pytest.raises(ValueError, match=message):
        compile_plan(name, schedule, nfe, **options)


def test_one_generator_per_image(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 6, noise="path")
    with pytest.raises(ValueError, match="1 generators for a batch of 2; pass one per image"):
        sample(lambda z, t: (z, z), torch.zeros(2, 4, 2, 2), plan, generators([1]))
