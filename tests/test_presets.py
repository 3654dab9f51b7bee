"""Presets: choices per step as data, compiled by name or file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from eval.arms import parse_arms
from samplers import NoiseSchedule, Plan, compile_plan
from samplers.grids import make_grid
from samplers.presets import FOLDER, Preset
from samplers.scheduled import Choice

NAME = "exp2m_cfg++"
SHIPPED = sorted(FOLDER.glob("*.json"))


def preset(schedule: NoiseSchedule, nfe: int = 6, **fields: object) -> Preset:
    """The same choice at every step of a Karras grid; the last one is plain, as it must be."""
    *steps, last = (Choice(s, **fields) for s in make_grid("karras", schedule, nfe)[:-1])
    return Preset(NAME, (*steps, replace(last, eta=0.0, corrector=False)))


def rows_of(plan: Plan) -> list[float]:
    """All coefficients of a plan, zeros at the ends of the histories left out."""
    out = []
    for row in plan:
        for u in (row.carry, row.probe):
            if u is not None:
                kept = [*np.trim_zeros(u.uncond, "b"), *np.trim_zeros(u.delta, "b")]
                out += [row.timestep, u.sigma, u.state, u.noise, *kept]
    return out


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"order": 1, "eta": 1.0}, {"order": 1, "eta": 1.0}),
        ({"eta": 0.5, "history": 0.25}, {"eta": 0.5, "history": 0.25}),
        ({"corrector": True}, {"corrector": True}),
    ],
)
def test_equal_choices_at_every_step_are_the_options_of_the_recipe(schedule, fields, options):
    """To rounding."""
    whole = {"order": 2, "eta": 0.0} | options
    plain = compile_plan(NAME, schedule, 6, omega=2, grid="karras", shape="constant", **whole)
    found = compile_plan(NAME, schedule, 6, omega=2, preset=preset(schedule, **fields))
    assert rows_of(found) == pytest.approx(rows_of(plain), rel=1e-9, abs=1e-12)


def test_the_callers_scale_stays_the_strength(schedule):
    weights = [3.0, 1.0, 0.5, 1.0, 2.0, 7.0]
    steps = preset(schedule).steps
    bent = Preset(NAME, tuple(replace(s, weight=w) for s, w in zip(steps, weights, strict=True)))
    for omega in (2.0, 5.0):
        found = [row.weight for row in compile_plan(NAME, schedule, 6, omega=omega, preset=bent)]
        assert found == pytest.approx([omega * w * 6 / sum(weights) for w in weights])
    plans = [compile_plan(NAME, schedule, 6, scale, preset=bent) for scale in (0.3, 0.6)]
    assert plans[1].rows[2].weight == pytest.approx(2 * plans[0].rows[2].weight)
    own = compile_plan(NAME, schedule, 6, 0.3)
    assert plans[0].scale == own.scale


def test_a_preset_survives_its_file_and_so_does_its_plan(schedule, tmp_path):
    made = replace(preset(schedule, eta=0.5, order=3, history=0.5), about={"model": "x"})
    (tmp_path / "p.json").write_text(made.to_json())
    assert Preset.from_json(made.to_json()) == made
    plan = compile_plan(NAME, schedule, 6, preset=tmp_path / "p.json")
    assert Plan.from_json(plan.to_json()) == plan and plan.options["preset"].endswith("p.json")


STEP = {"sigma": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [{"sigma": 1.0, "speed": 2}]}, "step 0 has an unknown 'speed'"),
        ({"steps": [{"sigma": -1.0}]}, "sigma must be above 0"),
        ({"steps": [{"sigma": 1.0, "order": 4}]}, "order is 4"),
        ({"steps": [{"sigma": 1.0, "eta": 1, "corrector": True}, STEP]}, "corrector goes with"),
        ({"steps": [{"sigma": 1.0, "eta": 1}]}, "the last step"),
        ({"steps": [{"sigma": 1.0, "weight": 0}]}, "positive sum"),
        ({"steps": [{"sigma": 1.0, "order": 1.5}]}, "order is 1.5"),
        ({"steps": [{"sigma": 1.0, "weight": "much"}]}, "step 0: weight is 'much'"),
        ({"nfe": 2}, "states nfe 2 and has 1"),
        ({"steps": 3}, "not as Preset.to_json writes it"),
    ],
)
def test_a_wrong_preset_is_refused_with_a_reason(schedule, tmp_path, change, message):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"sampler": NAME, "steps": [STEP]} | change))
    with pytest.raises(ValueError, match=message) as error:
        compile_plan(NAME, schedule, 1, preset=path)
    assert str(error.value).startswith(f"preset {str(path)!r}: ")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (NAME, {"nfe": 7}, "nfe is 7; the preset is for 6 evaluations"),
        ("dpm2m", {"nfe": 6}, "the preset is for 'exp2m_cfg\\+\\+', not 'dpm2m'"),
        (NAME, {"nfe": 6, "eta": 0.5}, "eta is set by the preset"),
        (NAME, {"nfe": 6, "grid": "karras"}, "grid is set by the preset"),
    ],
)
def test_a_preset_refuses_what_it_is_not_for(schedule, name, options, message):
    with pytest.raises(ValueError, match=message):
        compile_plan(name, schedule, preset=preset(schedule), **options)


def test_numbers_of_a_preset_may_be_written_in_any_way(schedule, tmp_path):
    found = []
    for i, step in enumerate(({"order": 2, "weight": 1}, {"order": 2.0, "weight": "1"})):
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps({"sampler": NAME, "steps": [STEP | step]}))
        found.append(compile_plan(NAME, schedule, 1, preset=path).rows)
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="preset is 5; give a name in presets/, or a file"):
        compile_plan(NAME, schedule, 1, preset=5)


def test_gains_that_move_constant_data_are_refused_by_the_plan(schedule):
    off = [Choice(1.0, gains=(0.5,)), Choice(0.4)]
    with pytest.raises(ValueError, match="constant data is no fixed point"):
        compile_plan(NAME, schedule, 2, preset=Preset(NAME, tuple(off)))


def test_an_unknown_preset_is_named_with_the_known_ones(schedule):
    with pytest.raises(ValueError, match="unknown preset 'standin-sd16'"):
        compile_plan(NAME, schedule, preset="standin-sd16")


def test_a_preset_is_an_option_of_an_arm():
    (arm,) = parse_arms(f"{NAME}[preset=standin-sd15-nfe10]@w2", (), {NAME: "cfg++"})
    assert dict(arm.options) == {"preset": "standin-sd15-nfe10"}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_preset_compiles_by_its_name(schedule, file):
    nfe = json.loads(file.read_text())["nfe"]
    plan = compile_plan(NAME, schedule, nfe, omega=2, preset=file.stem)
    assert len(plan) == nfe and file.stem.endswith(f"nfe{nfe}")
