"""Grids: properties that every one has, and the values that were published."""

from __future__ import annotations

from itertools import pairwise
from math import nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import NoiseSchedule, compile_plan
from samplers.grids import GRIDS, blended, karras, make_grid, uniform

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SD = NoiseSchedule(torch.cumprod(1 - BETAS, 0).tolist())
FROM_TOP = sorted(set(GRIDS) - {"leading", "leading_shifted"})
REACH_BOTTOM = ["karras", "uniform", "linspace", "blend", "karras_unfinished"]
UNFINISHED = ["karras_unfinished"]


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 400))
def test_every_grid(name, n):
    levels = make_grid(name, SD, n)
    assert len(levels) == n + 1
    assert all(a > b for a, b in pairwise(levels))
    assert levels[-1] == pytest.approx(SD.sigma_min if name in UNFINISHED else 0.0)
    if name in FROM_TOP:
        assert levels[0] == pytest.approx(SD.sigma_max, rel=1e-6)
    if name in REACH_BOTTOM and n >= 2:
        lowest = levels[-1] if name in UNFINISHED else levels[-2]
        assert lowest == pytest.approx(SD.sigma_min, rel=1e-9)


@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(1, 60),
    size=st.integers(61, 400),
    base=st.floats(0.9, 0.995),
    weight=st.floats(0, 1),
)
def test_grids_on_other_schedules(n, size, base, weight):
    other = NoiseSchedule([0.999 * base ** (30 * t / size) for t in range(size)])
    for grid in (*GRIDS, blended(karras, uniform, weight)):
        assert len(make_grid(grid, other, n)) == n + 1


def test_leading_and_trailing_are_the_customary_timesteps():
    def timesteps(name, n):
        return [SD.timestep(s) for s in make_grid(name, SD, n)[:-1]]

    assert timesteps("leading", 20) == [951 - 50 * i for i in range(20)]
    assert timesteps("leading_shifted", 20) == [950 - 50 * i for i in range(20)]
    assert timesteps("trailing", 20) == [999 - 50 * i for i in range(20)]
    assert timesteps("linspace", 4) == pytest.approx([999, 666, 333, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ays_sd15", "14.615 6.475 3.864 2.695 1.884 1.394 0.964 0.652 0.398 0.152"),
        ("ays_sdxl", "14.615 6.318 3.768 2.181 1.341 0.862 0.555 0.380 0.233 0.111"),
    ],
)
def test_align_your_steps_at_ten_steps_is_the_published_table(name, published):
    """arXiv:2404.14507; the last published level, σ_min, is replaced by 0."""
    table = [float(s) for s in published.split()]
    for grid in (name, f"{name}_tail"):
        levels = make_grid(grid, SD, 10)
        assert levels[:-1] == pytest.approx(table, abs=6e-4) and levels[-1] == 0


def test_align_your_steps_at_twenty_steps_by_the_log_linear_rule():
    found = [round(SD.timestep(s)) for s in make_grid("ays_sd15", SD, 20)[:-1]]
    expected = [999, 928, 850, 795, 736, 692, 645, 596, 545, 500]
    expected += [455, 399, 343, 286, 233, 173, 124, 58, 24, 4]
    assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True))


def test_align_your_steps_is_the_family_s_own_table_and_ends_where_the_schedule_does():
    schedule = NoiseSchedule.stable_diffusion()
    assert make_grid("ays", schedule, 12) == make_grid("ays_sd15", schedule, 12)
    schedule.family = "sdxl"
    assert make_grid("ays", schedule, 12) == make_grid("ays_sdxl", schedule, 12)
    schedule.family = "sdlx"
    with pytest.raises(ValueError, match="did you mean 'sdxl'"):
        make_grid("ays", schedule, 12)
    zero_snr = NoiseSchedule([*SD.alphas_cumprod[:-1], 2.0**-24])
    assert make_grid("ays", zero_snr, 10)[0] == pytest.approx(4096, rel=1e-6)
    assert make_grid("ays", zero_snr, 10)[1:] == pytest.approx(make_grid("ays", SD, 10)[1:])


def test_blend_is_a_geometric_mean():
    half = make_grid(blended(karras, uniform, 0.5), SD, 8)
    pairs = zip(karras(SD, 8), uniform(SD, 8), strict=True)
    assert half == pytest.approx([(a * b) ** 0.5 for a, b in pairs])


@pytest.mark.parametrize("form", [list, tuple, torch.tensor, lambda x: torch.tensor(x).numpy()])
def test_explicit_levels(form):
    plan = compile_plan("ddim", SD, 3, grid=form([8.0, 2.0, 0.5, 0.0]))
    assert [row.sigma for row in plan] == pytest.approx([8.0, 2.0, 0.5]) and plan.end == 0


def test_grid_function():
    plan = compile_plan("ddim", SD, 3, grid=lambda schedule, n: [9.0, 3.0, 1.0, 0.3])
    assert plan.end == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("kerras", "unknown grid 'kerras'; did you mean 'karras'\\? Known: leading, "),
        ([5.0, 1.0, 0.0], "the grid has 3 noise levels; 3 steps need 4"),
        ([5.0, 1.0, 1.0, 0.0], "noise level 2 of the grid is 1.0; levels must be finite, not neg"),
        ([5.0, 1.0, nan, 0.0], "noise level 2 of the grid is nan; levels must be finite"),
        ([5.0, 1.0, 0.5, -0.1], "noise level 3 of the grid is -0.1; levels must be finite"),
        ([80.0, 1.0, 0.5, 0.0], "the grid runs from 80 to 0.5; the network is trained for 0.0291"),
        ([5.0, 1.0, 0.001, 0.0], "the grid runs from 5 to 0.001; the network is trained for"),
    ],
)
def test_refused_grids(grid, message):
    with pytest.raises(ValueError, match=message) as caught:
        compile_plan("ddim", SD, 3, grid=grid)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [-0.1, 1.1, nan])
def test_refused_blend_weight(weight):
    with pytest.raises(ValueError, match=rf"blend weight is {weight}; it must lie in \[0, 1\]"):
        blended(karras, uniform, weight)


def test_what_is_no_grid_is_refused_and_a_functions_own_mistake_is_not_hidden(schedule):
    with pytest.raises(ValueError, match="grid is 5; give a name, a function or noise levels"):
        make_grid(5, schedule, 3)
    with pytest.raises(TypeError, match="own"):
        make_grid(lambda schedule, n: (_ for _ in ()).throw(TypeError("own")), schedule, 3)


@pytest.mark.parametrize("name", ["leading", "leading_shifted"])
def test_leading_grids_tell_no_timestep_beyond_the_table(name, schedule):
    """Both pair their levels with timesteps i·skip + 1, of which the last would be T."""
    make_grid(name, schedule, 999)
    with pytest.raises(ValueError, match="nfe is 1000; the leading grid has no 1000 of 1000"):
        make_grid(name, schedule, 1000)
