"""Approximated runs: near the exact images, at the cost that they state, under readable names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from approximate_runs import PROMPTS, SEEDS, exact, latents, plan_of, standin
from PIL import Image

from eval.__main__ import main
from eval.arms import parse_arms, with_approximations
from eval.config import Request
from eval.images import to_uint8
from eval.prompts import noise_seed
from eval.run import run
from pipelines.approximate import approximated
from pipelines.approximation import parse
from samplers import compile_plan, generators, standard_normal, trajectory

# --- in the sampling loop -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ddim", "dpm2m", "exp2m_cfg++"])
@pytest.mark.parametrize(
    "text",
    ["propagate[keys=uniform:2]", "cache[keys=0+1+3+5+7+9]", "propagate~gate[after=0.6]"],
)
def test_images_stay_near_the_exact_ones(method, text):
    """Features of the wrong step or row give errors as large as the latents' spread, about 1."""
    assert 1e-4 < error(standin(), text, method) < 0.4


@pytest.mark.parametrize("name", ["sd20", "sdxl"])
def test_other_families_stay_near_too(name):
    assert 1e-4 < error(standin(name), "propagate~gate[after=0.6]") < 0.4


def error(model, text: str, method: str = "exp2m_cfg++") -> float:
    """Return the root mean square difference at 12 evaluations, over the exact latents' spread."""
    wanted = exact(model, method, nfe=12)
    gap = latents(model, text, method, nfe=12) - wanted
    return float(gap.square().mean().sqrt() / wanted.std())


def test_decoding_ahead_changes_nothing():
    ahead = latents(standin(), "propagate[keys=0+1+3]")
    torch.testing.assert_close(
        ahead, latents(standin(), "propagate[keys=0+1+3,parallel=false]"), rtol=0, atol=1e-4
    )


def test_work_is_what_the_cost_says():
    model = standin()
    calls = {"encoder": 0, "middle": 0, "rows": 0}

    def count(name):
        def hook(module, args, out):
            calls[name] += 1
            calls["rows"] += len(args[0]) * (name == "encoder")

        return hook

    handles = [
        model.unet.conv_in.register_forward_hook(count("encoder")),
        model.unet.mid_block.register_forward_hook(count("middle")),
    ]
    ready = approximated(model, plan_of(model), parse("cache[keys=0+2+3]~gate[after=0.5]"))
    ready.latents(PROMPTS, SEEDS)
    for handle in handles:
        handle.remove()
    assert calls == {"encoder": 6, "middle": 3, "rows": 2 * (2 * 3 + 3)}
    cost = ready.cost
    assert (cost.whole, cost.partial, cost.rows) == (3, 3, 2 * 3 + 3)


@pytest.mark.parametrize("nfe", [1, 4])
def test_a_gate_that_comes_after_the_end_is_no_key(nfe):
    model = standin()
    text = "propagate[keys=uniform:2]~gate[after=0.99]"
    ready = approximated(model, plan_of(model, nfe=nfe), parse(text))
    assert ready.keys == tuple(range(0, nfe, 2))
    assert (ready.cost.whole, ready.cost.partial) == (-(-nfe // 2), nfe // 2)


def test_an_image_depends_on_its_prompt_and_seed_alone():
    model = standin()
    ready = approximated(model, plan_of(model), parse("propagate[keys=uniform:2]~gate[after=0.6]"))
    both = ready.latents(PROMPTS, SEEDS)
    alone = ready.latents(PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)


def test_without_guidance_one_row_runs_and_a_gate_has_nothing_to_leave_out():
    model = standin()
    plan = compile_plan("ddim", model.schedule, nfe=4, omega=1)
    ready = approximated(model, plan, parse("cache[keys=uniform:1]"))
    found, _ = ready.generate(PROMPTS, SEEDS)
    assert torch.equal(found, model.generate(plan, PROMPTS, SEEDS)[0])
    assert ready.cost.rows == 4
    with pytest.raises(ValueError, match="leave the gate out"):
        approximated(model, plan, parse("gate"))


def test_prior_noise_is_added_below_timestep_500():
    model = standin()
    plan = plan_of(model)
    z_T = standard_normal((2, *model.latent_shape), generators(SEEDS))
    for step in trajectory(model.conditioned(PROMPTS), z_T, plan):
        if step.index < 5 and plan.rows[step.index + 1].timestep < 500:
            step.latent = step.latent + 0.01 * z_T
    found = latents(model, "propagate[keys=uniform:1,noise=0.01]")
    torch.testing.assert_close(found, step.latent, rtol=0, atol=1e-5)
    assert not torch.allclose(found, exact(model), atol=1e-3)


def test_the_model_is_as_before_after_a_run_and_after_a_failure():
    model = standin()
    unet = model.unet
    ready = approximated(model, plan_of(model), parse("propagate"))
    with pytest.raises(ValueError, match="1 prompts and 2 seeds"):
        ready.latents(PROMPTS[:1], SEEDS)
    ready.latents(PROMPTS, SEEDS)
    assert model.unet is unet


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("propagate", "propagate[keys=uniform:2]"),
        (
            "propagate[noise=0.003, keys=0+1+5,parallel=false]",
            "propagate[keys=0+1+5,noise=0.003,parallel=false]",
        ),
        (
            "cache[depth=2]~gate[after=.7]",
            "cache[keys=uniform:2,depth=2]~gate[after=0.7,delta=hold]",
        ),
    ],
)
def test_names_are_canonical_and_read_back(text, name):
    assert str(parse(text)) == name
    assert parse(name) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("propagat", "did you mean 'propagate'"),
        ("propagate[key=3]", "did you mean 'keys'"),
        ("propagate[keys=1+2]", "must rise from 0"),
        ("propagate[keys=0+2+2]", "must rise from 0"),
        ("propagate[keys=uniform:0]", "at least 1"),
        ("propagate[keys=every]", "write uniform:2"),
        ("propagate[noise=nan]", "must be finite"),
        ("propagate[noise=3]", "from 0 to 0.1"),
        ("propagate~cache", "one of propagate and cache"),
        ("gate[after=1]", "between 0 and 1"),
        ("gate[delta=keep]", "Known: hold, drop"),
        ("cache[depth=1.5]", "whole number"),
        ("cache[depth=2", "cannot read"),
        ("", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("propagate[keys=0+6]", "6 evaluations, 0 to 5"),
        ("cache[depth=99]", "this UNet allows 1 to"),
        ("gate[delta=drop]", "renoises with the unconditional row"),
        ("propagate[keys=auto:7]", "from 1 to 6"),
    ],
)
def test_what_does_not_fit_model_or_plan_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        approximated(standin(), plan_of(standin()), parse(text))


def test_a_dropped_difference_is_allowed_under_cfg():
    assert latents(standin(), "gate[delta=drop]", "ddim").isfinite().all()


# --- as arms, runs and pictures -------------------------------------------------------------------


def test_an_arm_carries_its_approximation_in_its_name():
    samplers = {"ddim": "cfg", "exp2m_cfg++": "cfg++"}
    text = with_approximations("ddim@3,exp2m_cfg++[eta=0.5]", ["cache[depth=2]~gate", "propagate"])
    arms = parse_arms(text, (2.5,), samplers)
    assert [arm.key for arm in arms] == [
        "ddim@w3",
        "ddim~cache[keys=uniform:2,depth=2]~gate[after=0.6,delta=hold]@w3",
        "ddim~propagate[keys=uniform:2]@w3",
        "exp2m_cfg++[eta=0.5]@w2.5",
        "exp2m_cfg++[eta=0.5]~cache[keys=uniform:2,depth=2]~gate[after=0.6,delta=hold]@w2.5",
        "exp2m_cfg++[eta=0.5]~propagate[keys=uniform:2]@w2.5",
    ]
    assert [parse_arms(arm.key, (1.0,), samplers)[0] for arm in arms] == arms


def test_a_run_draws_the_approximation_and_says_what_it_is(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    arms = with_approximations("exp2m_cfg++[eta=0,grid=karras,shape=bell]@w2.5", ["cache"])
    run(Request("standin-sd15", arms, (), prompts, (100,), tmp_path / "run", nfe=4))
    exact_arm, near = json.loads((tmp_path / "run" / "config.json").read_text())["arms"]
    assert "approximation" not in exact_arm
    assert near["arm"] == "exp2m_cfg++[eta=0,grid=karras,shape=bell]~cache[keys=uniform:2,depth=1]"
    told = {"evaluations": 4, "whole": 2, "partial": 2, "rows": 8, "keys": [0, 2]}
    assert near["approximation"] == {"name": "cache[keys=uniform:2,depth=1]", **told}
    model = standin()
    ready = approximated(model, plan_of(model, nfe=4), parse("cache"))
    expected = to_uint8(ready.generate(PROMPTS, [noise_seed(p, 100) for p in PROMPTS])[1])
    file = tmp_path / "run" / "images" / near["key"] / "001_100.png"
    gap = np.asarray(Image.open(file)).astype(int) - expected[1]
    assert abs(gap).max() <= 1


def test_generate_takes_it_and_the_picture_tells(tmp_path, capsys):
    words = ["generate", "--prompt", "a red circle", "--NFE", "4", "--out", str(tmp_path / "x.png")]
    assert main([*words, "--approximate", "propagate"]) == 0
    text = Image.open(tmp_path / "x.png").text
    assert any('"whole": 2' in value for value in text.values())
    assert "2 of 4 evaluations run all of it" in capsys.readouterr().err
    assert main([*words, "--approximate", "propagate[keys=9]"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
