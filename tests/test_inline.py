"""The self-contained region: generated from the package's own functions, same coefficients.

`inline_region` executes what it wrote and compares every coefficient with the compiled plan (1e-9)
before it returns; tests/test_dropin.py compares whole trajectories.
"""

from __future__ import annotations

import ast
import math
from math import expm1, inf

import pytest
import torch

from samplers import NoiseSchedule, available, compile_plan, exponential
from samplers.dropin import inline, written_out
from samplers.dropin.specialise import specialise
from samplers.registry import Recipe, exp2m, find, register
from samplers.solvers import Stage, _first_order
from samplers.solvers import exponential as solve

ARMS = [recipe.name for recipe in available()]
ALLOWED = {"torch", "tqdm", "register_solver", "StableDiffusion", "SDXL", "SDXLLightning", "self"}


@pytest.mark.parametrize("base", list(inline.HOSTS))
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_becomes_one_readable_class(base, arm):
    text = inline.inline_region(base, arm)
    lines, tree = text.splitlines(), ast.parse(text)
    # the default needs 131 (SDXL): AYS, noise, its blend of history, ω(σ) with the bell's mean
    assert len(lines) <= (131 if arm == "exp2m_cfg++" else 130)
    assert max(map(len, lines)) <= 115
    assert [type(node) for node in tree.body] == [ast.ClassDef]
    nodes = list(ast.walk(tree))
    imports = [ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    # of the standard library alone, and only to seed an image's noise by its first latent
    assert imports == ["from hashlib import sha256"] * find(arm).stochastic
    bound = {"sha256"}
    used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    bound |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert (
        used - bound - set(dir(__builtins__) or ()) - set(vars(__import__("builtins"))) <= ALLOWED
    )


def test_options_of_the_solver_are_written_too():
    """What the default may become one day: noise, third order, another grid."""

    def third_sde(lam, order=3, eta=0.5, window=(0.0, inf)):
        return exp2m(lam, order, eta, window)

    recipe = Recipe("third_sde_test", third_sde, "blend", "lambda", 2, "a test", shape="bell")
    register(recipe)
    try:
        text = inline.inline_region("StableDiffusion", recipe.name)
        assert "carry.noise" in text and "uniform" in text and "_third_order_start" not in text
    finally:
        from samplers.registry import _RECIPES

        del _RECIPES[recipe.name]


def test_a_class_that_differs_from_its_plan_is_refused(monkeypatch):
    monkeypatch.setattr(written_out, "weights", lambda *_: [
        "def weights(nodes, start, end, rate=1.0):",
        "    return [-expm1(start - end)] + [0.0] * (len(nodes) - 1)",
    ])  # fmt: skip
    with pytest.raises(ValueError, match="its coefficients differ from its plan's"):
        inline.inline_region("SDXL", "exp2m_cfg++")


@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.parametrize("rate", [1.0, 1.6])
def test_weights_written_out_are_the_weights(anywhere, rate):
    """Against Lagrange's loops: 1e-12 for steps of ordinary size."""
    names = {"expm1": expm1}
    exec("\n".join(written_out.weights(3, anywhere)), names)
    nodes, end = [2.0, 1.7, 1.1], 2.4
    for count in (1, 2, 3):
        start = 1.4 if anywhere else nodes[0]
        found = names["weights"](nodes[:count], start, end, rate)
        assert found == pytest.approx(exponential.weights(nodes[:count], start, end, rate), 1e-12)


def test_specialising_folds_constants_and_drops_checks():
    known = {"order": 2, "eta": 0.0, "window": (0.0, inf)}
    source = specialise(solve, known, NoiseSchedule)
    text = "\n".join(source.lines)
    assert "restarts" not in text and "noisy" not in text and '"""' not in text
    names = {**vars(math), "weights": exponential.weights}
    names |= {"Stage": Stage, "_first_order": _first_order, "Move": type(_first_order(0, 1))}
    exec(text, names)
    lam = [-2.0, -0.5, 0.7, inf]
    assert list(names["exponential"](lam)) == list(solve(lam))
    assert list(specialise(Recipe.steps, {"self": available()[0]}, NoiseSchedule).lines) == [
        "def steps(nfe):",
        "    return nfe",
    ]


def test_the_table_of_cfgpp_is_read_with_and_without_its_first_entry(schedule):
    """CFGpp prepends 1.0; a region that ignored it would tell the network the wrong noise level."""
    names = {"torch": torch, "tqdm": iter, "register_solver": lambda name: lambda cls: cls}
    names["StableDiffusion"] = type("StableDiffusion", (), {})
    exec(inline.inline_region("StableDiffusion", "exp2m_cfg++"), names)
    region = names["BaseDDIMCFGpp"]()
    plan = compile_plan("exp2m_cfg++", schedule, 10, 0.6)
    for table in ([1.0, *schedule.alphas_cumprod], schedule.alphas_cumprod):
        table = torch.tensor(table, dtype=torch.float64)
        region.scheduler = type("S", (), {"alphas_cumprod": table})
        rows = region._rows(10, 0.6)
        assert [row[0] for row in rows] == pytest.approx([r.sigma for r in plan], rel=1e-12)
        assert [row[2] for row in rows] == pytest.approx([r.timestep for r in plan], abs=1e-9)
