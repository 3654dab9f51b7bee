"""A region as an arm: any file's class on a loaded model, its network calls counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from eval_double import Double

from eval.__main__ import main
from eval.arms import parse_arms
from eval.models import find, load
from eval.region import load_region
from samplers import compile_plan
from samplers.dropin import patch
from samplers.guidance import mean_bell

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "cfgpp" / "latent_diffusion.py"
PROMPTS = ["a red circle", "a small blue star"]


@pytest.fixture(scope="module")
def sd():
    return load(find("standin-sd15"), 4, "cpu", "float32")


@pytest.fixture
def region(tmp_path):
    """Return a function that writes an edited copy of our file and returns its path."""

    def edited(old: str = "", new: str = "", source: Path = ROOT / "latent_diffusion.py") -> str:
        text = source.read_text(encoding="utf-8")
        head, mark, region = text.partition("class BaseDDIMCFGpp")
        assert old in region
        path = tmp_path / "latent_diffusion.py"
        path.write_text(head + mark + region.replace(old, new, 1), encoding="utf-8")
        return str(path)

    return edited


def test_our_region_draws_what_the_named_sampler_draws(sd, region):
    """Same start noise for the same seeds, and λ = ω / mean ω of the bell."""
    ours = load_region(sd, region(), 4, omega=5.0, scale=None)
    assert ours.cfg_guidance == pytest.approx(5 / mean_bell(sd.schedule))
    latents, images = ours.draw(PROMPTS, [3, 4])
    plan = compile_plan("exp2m_cfg++", sd.schedule, 4, omega=5.0)
    torch.testing.assert_close((latents, images), sd.generate(plan, PROMPTS, [3, 4]))
    alone = ours.draw(PROMPTS[1:], [4])[1]
    torch.testing.assert_close(images[1:], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(("arm", "units"), [("exp2m_cfg++", "lambda"), ("dpm2s", "omega")])
def test_what_the_dropin_writes_can_be_evaluated(sd, tmp_path, arm, units, inline):
    path = tmp_path / "latent_diffusion.py"
    path.write_bytes(FIXTURE.read_bytes())
    patch.write(path, arm, inline, copy=False, force=True)
    there = load_region(sd, str(path), 4, omega=3.0, scale=None, units=units)
    plan = compile_plan(arm, sd.schedule, 4, omega=3.0)
    due = sd.generate(plan, PROMPTS, [3, 4])
    torch.testing.assert_close(there.draw(PROMPTS, [3, 4]), due, atol=2e-4, rtol=0)


def test_cfgpps_first_order_class_runs_as_it_is(sd):
    """The original's rule, from a file that is not imported."""
    arm = load_region(sd, str(FIXTURE), 4, omega=None, scale=0.4)
    plan = compile_plan("ddim_cfg++_first_order", sd.schedule, 4, 0.4)
    # CFGpp ends at ᾱ_0 and decodes the last clean estimate, which is where the plan ends
    due = sd.generate(plan, PROMPTS, [3, 4])
    torch.testing.assert_close(arm.draw(PROMPTS, [3, 4]), due, atol=2e-4, rtol=0)


def test_noise_of_a_stochastic_region_follows_from_the_seeds(sd, tmp_path):
    path = tmp_path / "latent_diffusion.py"
    path.write_bytes(FIXTURE.read_bytes())
    patch.write(path, "euler_a", inline=True, force=True)
    arm = load_region(sd, str(path), 4, omega=2.0, scale=None, units="omega")
    first = arm.draw(PROMPTS, [1, 2])[1]
    torch.rand(5)
    torch.testing.assert_close(arm.draw(PROMPTS, [1, 2])[1], first)
    assert (arm.draw(PROMPTS, [1, 3])[1] - first).abs().max() > 0.01


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "return self.predict_noise(z.to(self.dtype), t, uc, c)",
            "self.predict_noise(z, t, uc, c); return self.predict_noise(z, t, uc, c)",
            r"called the network 8 times with 16 rows for 1 images; at --nfe 4 it must make 4",
        ),
        (
            "return self.predict_noise(z.to(self.dtype), t, uc, c)",
            "return [e[:1] for e in self.predict_noise(torch.cat([z] * 2), t, uc, c)]",
            r"called the network 4 times with 16 rows",
        ),
        ("zt = self.init", "zt = nonsense.init", r"line \d+: NameError: .* import what it needs"),
        ("return (img / 2 + 0.5)", "return (img[:, :1] / 2)", r"returned \(1, 1, 64, 64\), not im"),
        ("nfe = len(", "nfe = 1 + len(", "called the network 5 times"),
    ],
)
def test_a_faulty_region_is_named_in_one_line(sd, region, old, new, message):
    arm = load_region(sd, region(old, new), 4, omega=3.0, scale=None)
    with pytest.raises(ValueError, match=message) as caught:
        arm.draw(PROMPTS[:1], [0])
    assert "\n" not in str(caught.value) and "latent_diffusion.py" in str(caught.value)


def test_a_region_for_the_other_model_is_refused(sd):
    with pytest.raises(ValueError, match=r"the region is for SDXL, and the model is a Stable"):
        load_region(sd, str(ROOT / "latent_sdxl.py"), 4, omega=3.0, scale=None)
    with pytest.raises(ValueError, match=r"does not exist; give a CFGpp checkout"):
        load_region(sd, "nowhere.py", 4, omega=3.0, scale=None)
    assert load_region(sd, str(FIXTURE.parent), 4, 3.0, None).target.path.name == FIXTURE.name


# --- the command ---------------------------------------------------------------------------------


def draw(out: Path, arms: str, *more: str) -> int:
    args = ["--arms", arms, "--scales", "3", "--limit", "1", "--seeds", "0", "--nfe", "4"]
    return main(["run", *args, "--no-score", "--device", "cpu", "--out", str(out), *more])


def test_a_run_with_a_region_resumes_and_refuses_a_changed_one(tmp_path, region, capsys):
    path, out = region(), tmp_path / "run"
    assert draw(out, f"mine=region:{path},exp2m_cfg++") == 0
    arms = {arm["key"]: arm for arm in json.loads((out / "config.json").read_text())["arms"]}
    assert list(arms) == ["mine@w3", "exp2m_cfg++@w3"]
    assert arms["mine@w3"]["sampler"] == "region" and arms["mine@w3"]["omega"] == 3
    assert len(arms["mine@w3"]["region"]["sha256"]) == 64
    pictures = [(out / "images" / key / "000_0.png") for key in arms]
    capsys.readouterr()
    assert draw(out, f"mine=region:{path},exp2m_cfg++") == 0
    assert "0 images drawn, 2 were there" in capsys.readouterr().out
    region("nfe = len(", "nfe = 0 + len(")
    assert draw(out, f"mine=region:{path},exp2m_cfg++") == 2
    assert "another plan for mine@w3" in capsys.readouterr().err
    assert all(picture.is_file() for picture in pictures)


def test_an_overspending_region_fails_before_anything_is_drawn(tmp_path, region, capsys):
    path = region(
        "return self.predict_noise(z.to(self.dtype), t, uc, c)",
        "self.predict_noise(z, t, uc, c); return self.predict_noise(z, t, uc, c)",
    )
    assert draw(tmp_path / "run", f"exp2m_cfg++,region:{path}") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "called the network 8 times" in error
    assert not (tmp_path / "run").exists()


def test_reading_regions_among_arms():
    known = {"ddim": "cfg", "exp2m_cfg++": "cfg++"}
    text = "region:a/b.py,mine=region:../x y/CFGpp@l0.6,region:c.py[units=omega]@5,ddim@2"
    arms = parse_arms(text, [3.0, 5.0], known)
    assert [arm.key for arm in arms] == [
        "region-b@w3", "region-b@w5", "mine@l0.6", "region-c[units=omega]@w5", "ddim@w2",
    ]  # fmt: skip
    assert [arm.region for arm in arms] == ["a/b.py", "a/b.py", "../x y/CFGpp", "c.py", None]
    for wrong, message in (
        ("region:a.py,region:b/a.py", "occurs twice; .* name regions apart, as in a=region:"),
        ("ddim=region:a.py", "'ddim' is a sampler; name the region otherwise"),
        ("region:a.py[eta=1]", "takes no option but units"),
        ("region:a.py[units=omega]@l3", "has no lambda"),
        ("region:", "write region:FILE"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_arms(wrong, [3.0], known)


def test_one_grid_for_all_arms_cannot_hold_for_a_region():
    from eval.drawers import drawer

    (arm,) = parse_arms(f"region:{FIXTURE}", [3.0], {})
    with pytest.raises(ValueError, match="a region has a grid of its own; leave --grid out"):
        drawer(arm, Double(), 4, "karras")
