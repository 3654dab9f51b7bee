"""Our classes inside a CFGpp checkout give the latents that they give at home.

On tests/fixtures/cfgpp, or on a real checkout at CFGPP_MAIN.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from types import SimpleNamespace

import cfgpp_double as cfgpp
import pytest
import torch

from samplers import available
from samplers.dropin import patch
from samplers.dropin.regions import DEFAULT

MODES = pytest.mark.parametrize("inline", [False, True], ids=["shared", "inline"])
FILES = pytest.mark.parametrize("name", cfgpp.FILES)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    place = cfgpp.checkout(tmp_path)
    monkeypatch.setattr(patch, "PUBLISHED", patch.PUBLISHED | cfgpp.published(place))
    return place


def solver(checkout, name, steps=20, **kwargs):
    module = cfgpp.load(checkout / name)
    config = SimpleNamespace(num_sampling=steps)
    return module.get_solver("ddim_cfg++", solver_config=config, **kwargs)


@MODES
@FILES
def test_latents_equal_those_of_our_own_file(checkout, name, inline):
    """Float32, 1e-5 of the largest latent (2 to 20 here): only the order of sums differs."""
    patch.write(checkout, inline=inline)
    for steps in (5, 10, 20, 50):
        patched, own = solver(checkout, name, steps), cfgpp.ours(name, steps)
        for cfg_guidance in (0.2, 0.6, 1.5, 7.5):
            patched.unet.calls = patched.unet.rows = 0
            there, here = (cfgpp.latents(s, cfg_guidance) for s in (patched, own))
            scale = here.abs().max()
            torch.testing.assert_close(there / scale, here / scale, atol=1e-5, rtol=0)
            assert patched.unet.calls == steps and patched.unet.rows == 2 * steps
        assert patched.unet.times == pytest.approx(own.unet.times, abs=1e-3)


@MODES
@FILES
def test_callbacks_see_and_replace_the_state_as_at_home(checkout, name, inline):
    patch.write(checkout, inline=inline)

    def halve(step, t, state):
        assert callable(state["decode"])
        return {**state, "z0t": state["z0t"] * 0.9, "zt": state["zt"] * (0.5 if step == 3 else 1)}

    pair = [cfgpp.latents(s, 0.6, halve) for s in (solver(checkout, name), cfgpp.ours(name, 20))]
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)
    assert (pair[0] - cfgpp.latents(solver(checkout, name), 0.6)).abs().max() > 0.01


@MODES
@FILES
def test_a_callback_may_write_into_what_it_sees_and_return_what_it_changed(checkout, name, inline):
    patch.write(checkout, inline=inline)

    def write(step, t, state):
        state["z0t"].clamp_(-0.5, 0.5)  # only seen: it does not enter the next step
        return {"zt": state["zt"] * 0.9} if step == 3 else None

    pair = [cfgpp.latents(s, 0.6, write) for s in (solver(checkout, name), cfgpp.ours(name, 20))]
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)
    assert pair[0].abs().max() <= 0.5 + 1e-6


@MODES
@FILES
def test_half_precision_under_autocast_is_finite(checkout, name, inline):
    patch.write(checkout, inline=inline)
    patched = solver(checkout, name, 10, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = cfgpp.latents(patched, 7.5)
    exact = cfgpp.latents(solver(checkout, name, 10), 7.5)
    assert result.isfinite().all() and (result.float() - exact).abs().mean() < 0.1


@MODES
@FILES
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_guidance_that_is_no_number_is_refused(checkout, name, inline, value):
    patch.write(checkout, inline=inline)
    with pytest.raises(ValueError, match=f"{value}.* must be .*finite"):
        cfgpp.latents(solver(checkout, name, 5), value)


@MODES
def test_a_prompt_without_its_null_prompt_is_refused(checkout, inline):
    """Its first two letters would be taken for the pair."""
    patch.write(checkout, inline=inline)
    with pytest.raises(ValueError, match="prompt is 'a cat'; pass"):
        solver(checkout, "latent_diffusion.py", 5).sample(prompt="a cat")


@FILES
@pytest.mark.parametrize("arm", [recipe.name for recipe in available()])
def test_every_arm_runs_in_both_modes_with_the_same_latents(checkout, name, arm):
    """Stochastic arms too: the first latent decides on the noise."""
    found = []
    for inline in (False, True):
        patch.write(checkout, arm=arm, inline=inline)
        patched = solver(checkout, name, 8)
        found.append(cfgpp.latents(patched, 0.8))
        assert patched.unet.calls == 8
    scale = found[0].abs().max().clamp(min=1)
    torch.testing.assert_close(found[1] / scale, found[0] / scale, atol=2e-6, rtol=0)


def test_a_distilled_subclass_runs_without_guidance(checkout):
    """CFGpp's Lightning classes derive from the SDXL class; guidance would burn their images."""
    patch.write(checkout, inline=True)
    module = cfgpp.load(checkout / "latent_sdxl.py")
    light = module.BaseDDIMCFGppLight.__new__(module.BaseDDIMCFGppLight)
    cfgpp.set_up(light, SimpleNamespace(num_sampling=4))
    cfgpp.latents(light, 1.0)
    assert light.unet.calls == light.unet.rows == 4
    assert light.unet.times == [999, 749, 499, 249]


def test_shared_mode_runs_with_the_copied_package_alone(checkout, tmp_path):
    patch.write(checkout)
    code = (
        "import sys, samplers, latent_diffusion; sys.path.insert(0, sys.argv[1])\n"
        "import torch, cfgpp_double as d; from types import SimpleNamespace as S\n"
        "latent_diffusion.StableDiffusion.__init__ = d.set_up\n"
        "s = latent_diffusion.get_solver('ddim_cfg++', solver_config=S(num_sampling=5))\n"
        "torch.save(d.latents(s, 0.6), sys.argv[2]); print(samplers.__file__)"
    )
    tests, out = str(cfgpp.FIXTURES.parents[1]), tmp_path / "z.pt"
    done = subprocess.run(
        [sys.executable, "-c", code, tests, out], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(checkout / "samplers") in done.stdout
    own = cfgpp.latents(cfgpp.ours("latent_diffusion.py", 5), 0.6)
    torch.testing.assert_close(torch.load(out), own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arm", "added"), [("dpm2m", []), (DEFAULT, ["from hashlib import sha256"])]
)
def test_inline_adds_no_file_and_no_import(checkout, arm, added):
    """Where noise is seeded by a first latent, `hashlib` of the standard library is read for it."""

    def imports(name):
        tree = ast.parse((checkout / name).read_text())
        return [
            ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)
        ]

    before = {name: imports(name) for name in cfgpp.FILES}
    patch.write(checkout, arm=arm, inline=True)
    for name in cfgpp.FILES:
        assert sorted(imports(name)) == sorted(before[name] + added)
    assert sorted(cfgpp.git(checkout, "status", "--short").split()) == sorted(
        ["M", *cfgpp.FILES, "M"]
    )
