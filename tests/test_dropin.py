"""Our classes inside a CFGpp checkout: same latents as at home, and out again without a trace.

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

from samplers import available, dropin
from samplers.checkout import read_target
from samplers.regions import fingerprint, region_text

MODES = pytest.mark.parametrize("inline", [False, True], ids=["shared", "inline"])
FILES = pytest.mark.parametrize("name", cfgpp.FILES)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    place = cfgpp.checkout(tmp_path)
    if not cfgpp.REAL:  # the fixtures stand for CFGpp, so their classes count as published
        regions = {fingerprint(read_target(place / name).region)[:16] for name in cfgpp.FILES}
        monkeypatch.setattr(dropin, "PUBLISHED", regions)
    return place


def solver(checkout, name, steps=20, **kwargs):
    module = cfgpp.load(checkout / name)
    config = SimpleNamespace(num_sampling=steps)
    return module.get_solver("ddim_cfg++", solver_config=config, **kwargs)


def run(*args) -> int:
    return dropin.main([str(a) for a in args])


# --- what is installed ---------------------------------------------------------------------------


@MODES
@FILES
def test_latents_equal_those_of_our_own_file(checkout, name, inline):
    """Float32, 1e-5 of the largest latent (2 to 20 here): only the order of sums differs."""
    dropin.write(checkout, inline=inline)
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
    dropin.write(checkout, inline=inline)

    def halve(step, t, state):
        assert callable(state["decode"])
        return {**state, "z0t": state["z0t"] * 0.9, "zt": state["zt"] * (0.5 if step == 3 else 1)}

    pair = [cfgpp.latents(s, 0.6, halve) for s in (solver(checkout, name), cfgpp.ours(name, 20))]
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)
    assert (pair[0] - cfgpp.latents(solver(checkout, name), 0.6)).abs().max() > 0.01


@MODES
@FILES
def test_half_precision_under_autocast_is_finite(checkout, name, inline):
    dropin.write(checkout, inline=inline)
    patched = solver(checkout, name, 10, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = cfgpp.latents(patched, 7.5)
    exact = cfgpp.latents(solver(checkout, name, 10), 7.5)
    assert result.isfinite().all() and (result.float() - exact).abs().mean() < 0.1


@FILES
@pytest.mark.parametrize("arm", [recipe.name for recipe in available()])
def test_every_arm_runs_in_both_modes_with_the_same_latents(checkout, name, arm):
    """Stochastic arms too: torch's global seed decides."""
    found = []
    for inline in (False, True):
        dropin.write(checkout, arm=arm, inline=inline)
        patched = solver(checkout, name, 8)
        found.append(cfgpp.latents(patched, 0.8))
        assert patched.unet.calls == 8
    scale = found[0].abs().max().clamp(min=1)
    torch.testing.assert_close(found[1] / scale, found[0] / scale, atol=2e-6, rtol=0)


def test_a_distilled_subclass_runs_without_guidance(checkout):
    """CFGpp's Lightning classes derive from the SDXL class; guidance would burn their images."""
    dropin.write(checkout, inline=True)
    module = cfgpp.load(checkout / "latent_sdxl.py")
    light = module.BaseDDIMCFGppLight.__new__(module.BaseDDIMCFGppLight)
    cfgpp.set_up(light, SimpleNamespace(num_sampling=4))
    cfgpp.latents(light, 1.0)
    assert light.unet.calls == light.unet.rows == 4
    assert light.unet.times == [999, 749, 499, 249]


def test_shared_mode_runs_with_the_copied_package_alone(checkout, tmp_path):
    dropin.write(checkout)
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


def test_inline_adds_no_file_and_no_import(checkout):
    def imports(name):
        tree = ast.parse((checkout / name).read_text())
        return [
            ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)
        ]

    before = {name: imports(name) for name in cfgpp.FILES}
    dropin.write(checkout, inline=True)
    assert {name: imports(name) for name in cfgpp.FILES} == before
    assert sorted(cfgpp.git(checkout, "status", "--short").split()) == sorted(
        ["M", *cfgpp.FILES, "M"]
    )


# --- the files -----------------------------------------------------------------------------------


@MODES
def test_write_check_and_revert(checkout, inline, capsys):
    flags = ["--inline"] * inline
    before = {path: path.read_bytes() for path in checkout.glob("*.py")}
    assert run(checkout, "--check", *flags) == 1
    assert "CFGpp's" in capsys.readouterr().out
    assert run(checkout, "--write", *flags) == 0
    for path, data in before.items():
        target = read_target(path)
        assert target.region == region_text(target.base, inline=inline)
        old = dropin.Target(path, data, "", 0, 0, 0)  # all but the region is as it was
        assert old.data.startswith(target.data[: target.start])
        assert old.data.endswith(target.data[target.end :])
    installed = {path: path.stat().st_mtime_ns for path in before}
    assert run(checkout, "--check", *flags) == 0
    assert run(checkout, "--check", "--arm", "ddim", *flags) == 1
    capsys.readouterr()
    assert run(checkout, "--write", *flags) == 0
    assert capsys.readouterr().out.count("installed already") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == installed
    assert run(checkout, "--revert") == 0
    assert {path: path.read_bytes() for path in checkout.glob("*.py")} == before
    assert cfgpp.git(checkout, "status", "--short") == ""
    assert not (checkout / ".git" / "samplers-dropin").exists()
    assert run(checkout, "--revert") == 0
    assert "nothing to revert" in capsys.readouterr().out


def test_the_diff_is_the_default_writes_nothing_and_applies(checkout, capsys):
    assert run(checkout) == 0
    text = capsys.readouterr().out
    assert cfgpp.git(checkout, "status", "--short") == ""
    (checkout.parent / "x.patch").write_text(text)
    cfgpp.git(checkout, "apply", "../x.patch")
    assert run(checkout, "--check") == 0


def test_another_arm_replaces_ours_and_revert_still_restores_the_first(checkout):
    for args in (["--arm", "dpm2m"], ["--inline", "--arm", "dpm2s"], []):
        assert run(checkout, "--write", *args) == 0
        assert run(checkout, "--check", *args) == 0
        assert (checkout / "samplers").exists() == ("--inline" not in args)
    assert run(checkout, "--revert") == 0
    assert cfgpp.git(checkout, "status", "--short") == ""


def test_a_region_edited_by_hand_needs_force_and_is_kept(checkout, capsys):
    assert run(checkout, "--write", "--inline") == 0
    path = checkout / "latent_diffusion.py"
    edited = path.read_text().replace("carry.decay * x", "carry.decay * x * 1.01")
    path.write_text(edited)
    for action in ("--write", "--revert"):
        assert run(checkout, action) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "--force" in error and "edited" in error
        assert path.read_text() == edited
    assert run(checkout, "--write", "--force") == 0
    assert (checkout / "latent_diffusion.py.replaced").read_text() == edited
    assert run(checkout, "--revert") == 0
    assert cfgpp.git(checkout, "status", "--short").split() == ["??", f"{path.name}.replaced"]


def test_a_foreign_class_needs_force_and_comes_back(checkout, capsys):
    path = checkout / "latent_sdxl.py"
    target = read_target(path)
    path.write_bytes(target.with_region(target.region.replace("sqrt()", "sqrt().abs()", 1)))
    before = path.read_bytes()
    assert run(checkout, "--write") == 2
    assert f"line {target.line}" in capsys.readouterr().err
    assert path.read_bytes() == before and not (checkout / "samplers").exists()
    assert run(checkout, "--write", "--force") == 0
    assert run(checkout, "--revert") == 0
    assert path.read_bytes() == before


def test_edits_elsewhere_in_the_file_survive_a_revert(checkout):
    path = checkout / "latent_diffusion.py"
    before = path.read_text()
    assert run(checkout, "--write") == 0
    path.write_text(path.read_text() + "# mine\n")
    assert run(checkout, "--write", "--arm", "ddim") == 0
    assert run(checkout, "--revert") == 0
    assert path.read_text() == before + "# mine\n"


def test_line_ends_permissions_and_formatting_of_the_target_are_respected(checkout):
    path = checkout / "latent_diffusion.py"
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    path.chmod(0o755)
    before = path.read_bytes()
    assert run(path, "--write", "--inline") == 0
    data = path.read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") and path.stat().st_mode & 0o777 == 0o755
    assert run(path, "--check", "--inline") == 0
    assert run(path, "--revert") == 0
    assert path.read_bytes() == before


def test_without_git_the_copy_stands_beside(checkout, tmp_path):
    import shutil

    shutil.rmtree(checkout / ".git")
    before = {p: p.read_bytes() for p in checkout.iterdir()}
    assert run(checkout, "--write") == 0
    assert (checkout / ".samplers-dropin").is_dir()
    assert run(checkout, "--revert") == 0
    assert {p: p.read_bytes() for p in checkout.iterdir()} == before


def test_a_foreign_samplers_folder_is_not_touched(checkout, capsys):
    (checkout / "samplers").mkdir()
    (checkout / "samplers" / "plan.py").write_text("mine = 1\n")
    assert run(checkout, "--write") == 2
    assert "not ours" in capsys.readouterr().err
    assert cfgpp.git(checkout, "status", "--short").split() == ["??", "samplers/"]
    assert run(checkout, "--write", "--inline") == 0 == run(checkout, "--revert")
    assert (checkout / "samplers" / "plan.py").read_text() == "mine = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "class BaseDDIMCFGpp is not there"),
        ("class BaseDDIMCFGpp(SDXL):\n  pass\n" * 2, "stands there 2 times, lines 1 and 3"),
        ("def f(:\n", "line 1: syntax error"),
        ("class BaseDDIMCFGpp(Other):\n  pass\n", "derives from neither StableDiffusion nor SDXL"),
        ("# \xff\n", "cannot be read as Python in UTF-8"),
        ("class BaseDDIMCFGpp(SDXL):\n  pass\n", "neither that of a published CFGpp"),
    ],
)
def test_unusable_files_are_named_in_one_line_and_nothing_changes(checkout, capsys, text, message):
    path = checkout / "latent_sdxl.py"
    path.write_bytes(text.encode("latin-1"))
    before = {p: p.read_bytes() for p in checkout.glob("*.py")}
    assert run(checkout, "--write") == 2
    error = capsys.readouterr().err
    assert message in error and "latent_sdxl.py" in error and error.count("\n") == 1
    assert {p: p.read_bytes() for p in checkout.glob("*.py")} == before
    assert not (checkout / "samplers").exists()


def test_missing_and_read_only_files_and_unknown_arms(checkout, capsys):
    path = checkout / "latent_sdxl.py"
    for args, message in (
        ([checkout / "no"], "does not exist; give a CFGpp checkout"),
        ([checkout / ".git"], "neither latent_diffusion.py nor latent_sdxl.py there"),
        ([checkout, "--arm", "dpm2mm"], "did you mean 'dpm2m'?"),
        ([checkout, "--arm", "ddim_inversion"], "is an inversion"),
        ([cfgpp.FIXTURES.parents[2], "--write"], "this project's own file"),
    ):
        assert run(*args) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    path.chmod(0o444)
    assert run(checkout, "--write") == 2
    assert "read-only; nothing was changed" in capsys.readouterr().err
    assert cfgpp.git(checkout, "diff", "--stat", "--", "latent_diffusion.py") == ""
