"""Names and options: what is registered, how to add to it, and the wording of every refusal."""

from __future__ import annotations

import re
from math import inf, nan

import pytest
from diffusers import DDIMScheduler

from samplers import Recipe, available, compile_plan, register
from samplers import registry as module
from samplers.compile import _say_few
from samplers.solvers import euler

ARMS = {
    f"{a}{suffix}" for a in ("ddim", "dpm2m", "dpm2s", "dpm3m_sde") for suffix in ("", "_cfg++")
}
OTHERS = {"exp2m_cfg++", "res_2m", "res_2m_cfg++", "unipc", "dpm3m", "exp3m"}
ORIGINAL = {
    "euler",
    "euler_a",
    "euler_cfg++",
    "euler_a_cfg++",
    "ddim_cfg++_first_order",
    "dpm++_2m",
    "dpm++_2m_cfg++",
    "dpm++_2m_cfgpp",
    "dpm++_2s_a",
    "dpm++_2s_a_cfg++",
}


def test_the_promised_names_are_there():
    names = [r.name for r in available()]
    assert len(names) == len(set(names))
    assert set(names) >= ARMS | ORIGINAL | OTHERS


def test_recipes_describe_themselves():
    for recipe in available():
        assert recipe.source and recipe.order in (1, 2, 3)
        assert recipe.evaluations_per_step == (2 if "2s" in recipe.name else 1)
        assert recipe.guidance == ("cfg++" if "cfg" in recipe.name else "cfg")
        noisy = re.search(r"^exp2m|sde|_a(_|$)", recipe.name)
        assert recipe.stochastic == bool(noisy)


def test_few_evaluations_are_told_the_sampler_for_them_once(schedule, caplog):
    _say_few.cache_clear()
    compile_plan("exp2m_cfg++", schedule, 10)
    compile_plan("exp2m_cfg++", schedule, 3, grid=[2.0, 1.0, 0.5, 0.0])  # not all the way
    assert not caplog.records
    for omega in (1, 5):
        compile_plan("exp2m_cfg++", schedule, 9, omega=omega)
    (record,) = caplog.records
    assert "exp2m_cfg++: 9 evaluations are few for it; exp2m_cfg++_few" in record.getMessage()


def test_inversions_are_no_samplers():
    """They start from an image: the evaluation must not offer them as arms."""
    inversions = [r.name for r in available("inversion")]
    assert inversions == ["ddim_inversion", "ddim_inversion_cfg++"]
    assert not set(inversions) & {r.name for r in available()}
    with pytest.raises(ValueError, match="unknown kind 'inverse'; did you mean 'inversion'"):
        available("inverse")


def test_our_sampler_takes_the_documented_options():
    recipe = next(r for r in available() if r.name == "exp2m_cfg++")
    assert recipe.options == {
        "order": 2,
        "eta": 1.0,
        "window": (0.0, inf),
        "corrector": False,
        "history": 0.5,
    }


def test_a_new_sampler_is_one_line(schedule, monkeypatch):
    monkeypatch.setattr(module, "_RECIPES", dict(module._RECIPES))
    mine = register(Recipe("mine", euler, "uniform", "omega", 1, "a test", shape="rising"))
    assert available()[-1] is mine
    assert compile_plan("mine", schedule, 8).scale == 7.5
    with pytest.raises(ValueError, match="sampler 'mine' is registered already; choose another"):
        register(mine)
    with pytest.raises(ValueError, match="unknown strength 'omgea'; did you mean 'omega'"):
        register(Recipe("yours", euler, "uniform", "omgea", 1, "a test"))


def compile_error(schedule, name="exp2m_cfg++", nfe=5, **options) -> str:
    with pytest.raises(ValueError) as caught:
        compile_plan(name, schedule, nfe, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"name": "dpm2mm"},
            "unknown sampler 'dpm2mm'; did you mean 'dpm2m'? Known: exp2m_cfg++, ",
        ),
        ({"name": "zzz"}, "unknown sampler 'zzz'. Known: exp2m_cfg++, "),
        ({"nfe": 0}, "nfe is 0; it must be a whole number from 1 to 1000"),
        ({"nfe": 1001}, "nfe is 1001; it must be a whole number from 1 to 1000"),
        ({"nfe": 2.5}, "nfe is 2.5; it must be a whole number from 1 to 1000"),
        ({"nfe": True}, "nfe is True; it must be a whole number from 1 to 1000"),
        ({"nfe": "20"}, "nfe is '20'; it must be a whole number from 1 to 1000"),
        ({"nfe": nan}, "nfe is nan; it must be a whole number from 1 to 1000"),
        ({"nfe": inf}, "nfe is inf; it must be a whole number from 1 to 1000"),
        ({"nfe": None}, "nfe is None; it must be a whole number from 1 to 1000"),
        ({"scale": nan}, "scale is nan; it must be finite"),
        ({"scale": inf, "name": "ddim_cfg++"}, "scale is inf; it must be finite"),
        ({"scale": "high"}, "scale is 'high'; it must be a number"),
        ({"omega": nan}, "omega is nan; it must be finite"),
        ({"omega": lambda sigma: nan}, "omega(sigma) is nan; it must be finite"),
        (
            {"omega": lambda sigma: 5.0, "shape": "bell"},
            "omega is a function, so it is the rate ω(σ) itself; leave out shape='bell', or pass",
        ),
        (
            {"omega": lambda sigma: 5.0, "preset": "standin-sd15-nfe8", "nfe": 8},
            "omega is a function, so it is the rate ω(σ) itself; leave out the preset, or pass a",
        ),
        ({"scale": 0.6, "omega": 7.5}, "scale=0.6 and omega=7.5 both state the strength; pass one"),
        ({"shape": "ball"}, "unknown shape 'ball'; did you mean 'bell'? Known: constant, "),
        ({"interval": (2.0, 1.0)}, "interval is (2.0, 1.0); it needs 0 <= low < high"),
        ({"interval": 3}, "interval is 3; it must be two noise levels, (low, high)"),
        ({"window": (2.0, 1.0)}, "window is (2.0, 1.0); it needs 0 <= low < high"),
        ({"window": "wide"}, "window is 'wide'; it must be two noise levels, (low, high)"),
        ({"eta": -0.1}, "eta is -0.1; it must be 0 (deterministic) or more"),
        ({"eta": nan}, "eta is nan; it must be finite"),
        ({"eta": None}, "eta is None; it must be a number"),
        ({"eta": 0, "corrector": "no"}, "corrector is 'no'; it must be True or False"),
        ({"corrector": None}, "corrector is None; it must be True or False"),
        ({"order": 4}, "order is 4; it must be a whole number from 1 to 3"),
        ({"order": "2"}, "order is '2'; it must be a whole number from 1 to 3"),
        ({"history": 1.5}, "history is 1.5; it must be from 0 to 1"),
        ({"name": "dpm++_2s_a", "eta": 1.5}, "eta is 1.5; a 2S ancestral sampler takes 0 to 1"),
        (
            {"name": "ddim", "eta": 1.0},
            "sampler 'ddim' takes no option eta=1.0; its options: shape, interval, cap, grid, pre",
        ),
        (
            {"steps": 20},
            "sampler 'exp2m_cfg++' takes no option steps=20; it is nfe here; its options: order, "
            "eta, window, corr",
        ),
        (
            {"nfe": 1000, "grid": "leading"},
            "nfe is 1000; the leading grid has no 1000 of 1000 timesteps",
        ),
    ],
)
def test_refusals_name_the_value_and_what_is_allowed(wrong, message, schedule):
    assert compile_error(schedule, **wrong).startswith(message)


def test_a_solver_that_does_not_make_the_evaluations_asked_for_is_refused(schedule, monkeypatch):
    monkeypatch.setattr(module, "_RECIPES", dict(module._RECIPES))

    def twice(lam):  # midpoints of its own, and no nfe to say so
        for stage in euler(lam):
            yield from (stage, stage)

    def short(lam):
        yield from euler(lam[:-1])

    def early(lam):
        yield from euler([*lam[:-1], lam[-2] + 0.1])

    for solver, said in ((twice, "16 evaluations of 8"), (short, "7 eval"), (early, "not 0;")):
        register(Recipe(solver.__name__, solver, "karras", "omega", 1, "a test"))
        with pytest.raises(ValueError, match=said):
            compile_plan(solver.__name__, schedule, 8)
    for field in ("timesteps", "start", "shape", "strength"):
        with pytest.raises(ValueError, match=f"unknown {field} 'nearst'"):
            register(Recipe("odd", euler, "karras", **{"strength": "omega", field: "nearst"},
                            order=1, source="a test"))  # fmt: skip


def test_a_schedule_that_is_none_is_refused():
    message = compile_error(DDIMScheduler())
    assert message.startswith(
        "schedule is a DDIMScheduler; pass a NoiseSchedule, for example Noise"
    )


def test_a_lambda_that_looks_like_an_omega_is_logged(schedule, caplog):
    compile_plan("exp2m_cfg++", schedule, 20, scale=0.6)
    compile_plan("dpm2m", schedule, 20, scale=7.5)
    assert not caplog.messages
    compile_plan("exp2m_cfg++", schedule, 20, scale=7.5)
    (line,) = caplog.messages
    assert line.startswith("exp2m_cfg++: scale=7.5 is CFG++'s λ, usually 0 to 1; ")
    assert line.endswith("pass omega=7.5 (in an arm @w7.5)")
    compile_plan("exp2m_cfg++", schedule, 20, scale=2)
    assert "scale=2 is CFG++'s λ" in caplog.messages[-1]


def test_a_strong_eta_makes_ancestral_sampling_forget_its_state(schedule):
    """σ_up is capped at σ', as in k-diffusion, so σ_down = 0 and nothing of the state is kept."""
    plan = compile_plan("euler_a", schedule, 4, eta=50.0)
    assert plan.rows[0].carry.state == 0 and plan.rows[0].carry.noise == plan.rows[0].carry.sigma
