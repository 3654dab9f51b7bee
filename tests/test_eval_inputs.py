"""Arms, scales, seeds, prompt files and models: what is read, and how errors are explained."""

from __future__ import annotations

import pytest
from eval_double import place

from eval import models
from eval.__main__ import main
from eval.arms import Arm, parse_arms, parse_scales
from eval.prompts import parse_seeds, read_prompts

GUIDANCE = {"ddim": "cfg", "dpm2m": "cfg", "ddim_cfg++": "cfg++", "exp2m_cfg++": "cfg++"}


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


# --- arms, scales, prompts, seeds ----------------------------------------------------------------


def keys_of(text: str, scales=(3.0, 7.5)) -> list[str]:
    return [arm.key for arm in parse_arms(text, scales, GUIDANCE)]


def test_arms_have_readable_keys_that_parse_back():
    assert keys_of("ddim,exp2m_cfg++") == [
        "ddim@w3",
        "ddim@w7.5",
        "exp2m_cfg++@w3",
        "exp2m_cfg++@w7.5",
    ]
    assert keys_of("ddim@5,exp2m_cfg++@0.6,exp2m_cfg++@w5") == [
        "ddim@w5",
        "exp2m_cfg++@l0.6",
        "exp2m_cfg++@w5",
    ]
    text = "exp2m_cfg++[order=3,eta=0.5,corrector=true,grid=karras]@0.6"
    (arm,) = parse_arms(text, (), GUIDANCE)
    assert arm.key == "exp2m_cfg++[corrector=true,eta=0.5,grid=karras,order=3]@l0.6"
    assert dict(arm.options) == {"corrector": True, "eta": 0.5, "grid": "karras", "order": 3}
    assert parse_arms(arm.key, (), GUIDANCE) == [arm]
    (arm,) = parse_arms("exp2m_cfg++[interval=0.30..inf]@w5", (), GUIDANCE)
    assert arm.key == "exp2m_cfg++[interval=0.3..inf]@w5"
    assert dict(arm.options) == {"interval": (0.3, float("inf"))}
    assert Arm("ddim", "cfg", omega=1 / 3).key == "ddim@w0.333333333333"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddmi", r"unknown sampler 'ddmi'; did you mean 'ddim'\? Known: ddim, "),
        ("ddim,,dpm2m", "an arm is empty"),
        ("ddim[eta=0.5", "cannot read arm"),
        ("ddim[]", "cannot read option ''"),
        ("ddim[eta]", "cannot read option 'eta'"),
        ("ddim[eta=1,eta=2]", "'eta' occurs twice"),
        ("ddim[nfe=9]", "nfe is not an option; state it by --nfe"),
        ("exp2m_cfg++[scale=0.6]", "state it by @NUMBER"),
        ("ddim@much", "cannot use 'much' as a strength"),
        ("ddim@", "cannot use '' as a strength"),
        ("ddim@-1", "give a number above 0"),
        ("ddim@nan", "give a number above 0"),
        ("ddim@l0.6", "has no lambda; write @w0.6"),
        ("ddim@3,ddim", "arm 'ddim@w3' occurs twice"),
    ],
)
def test_unusable_arms_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        keys_of(text)


def test_scales():
    assert parse_scales("1.5, 3,5") == [1.5, 3.0, 5.0]
    for text, message in (("1,x", "cannot use 'x'"), ("3,3.0", "3 occurs twice"), ("", "''")):
        with pytest.raises(ValueError, match=message):
            parse_scales(text)


def test_seeds():
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7, 0,3-4") == [7, 0, 3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        ("a", "write 0-4 or 0,3,7"),
        ("-1", "cannot read '-1'"),
        ("1.5", "cannot read '1.5'"),
        ("4-0", "runs backwards; write 0-4"),
        ("0-4,3", "3 occurs twice"),
        ("99999999999999999999", "too large"),
        ("0-99999999", "more than a million"),
    ],
)
def test_unusable_seeds_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        parse_seeds(text)


def test_prompt_files(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeff# title\r\n\r\n a cat \r\nan emú\r\n".encode())
    assert read_prompts(path) == ["a cat", "an emú"]
    assert read_prompts(path, 1) == ["a cat"]
    with pytest.raises(ValueError, match="limit 0"):
        read_prompts(path, 0)
    with pytest.raises(ValueError, match="no prompt file"):
        read_prompts(tmp_path / "absent.txt")
    path.write_text("# only a comment\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(path)
    path.write_text("a cat\na dog\n# x\na cat\n")
    with pytest.raises(ValueError, match="'a cat' on lines 1 and 4"):
        read_prompts(path)
    path.write_bytes(b"a caf\xe9\n")
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 5\)"):
        read_prompts(path)


# --- models --------------------------------------------------------------------------------------


def test_models_are_found_or_explained(folder, monkeypatch):
    tiny = models.find(str(folder / "tiny"))
    assert tiny.standin and tiny.label == "tiny" and tiny.default_batch == 50
    (folder / "tiny" / "card.json").unlink()
    assert not models.find(str(folder / "tiny")).standin
    assert models.find("owner/name") == models.Source("owner/name", "owner/name", False)
    assert models.find("sd15").default_batch == 8
    with pytest.raises(ValueError, match="unknown model 'sd-xl', did you mean 'sdxl'"):
        models.find("sd-xl")
    with pytest.raises(ValueError, match="unknown model 'nix'; give one of standin-sd15, standin"):
        models.find("nix")
    with pytest.raises(ValueError, match=r"unknown model './x/y'"):
        models.find("./x/y")
    with pytest.raises(ValueError, match=r"no model_index\.json in "):
        models.find(str(folder))
    (folder / "v1-5.safetensors").touch()
    with pytest.raises(ValueError, match=r"is a file; of a single file make a folder once: Stable"):
        models.find(str(folder / "v1-5.safetensors"))
    monkeypatch.setitem(models.MODELS, "standin-sd15", models.ROOT / "standins" / "absent")
    with pytest.raises(ValueError, match=r"no standins/absent/model_index\.json; take a complete"):
        models.find("standin-sd15")


def test_the_fingerprint_covers_the_pipeline_and_not_its_card(folder):
    source = models.find(str(folder / "tiny"))
    before = models.fingerprint(source, {})
    (folder / "tiny" / "card.json").write_text('{"standin": true, "note": 1}')
    (folder / "tiny" / "loss.png").write_bytes(b"")
    assert models.fingerprint(source, {}) == before
    (folder / "tiny" / "unet" / "model.safetensors").write_bytes(b"1")
    assert models.fingerprint(source, {}) != before


def test_hub_models_are_identified_by_their_commit(monkeypatch):
    source = models.Source("sd15", "owner/gone", False)
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: "/c/snapshots/f00/model.json")
    found = models.fingerprint(source, {"model_key": "owner/mirror"})
    assert found == {"sha256": None, "revision": "owner/mirror@f00"}
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: None)
    found = models.fingerprint(source, {"model_key": "owner/mirror"})
    assert found["revision"] == "owner/mirror@unknown"


def test_devices_and_dtypes():
    assert models.choose_device("cpu") == "cpu" and models.choose_device(None)
    with pytest.raises(ValueError, match="cannot use device 'abacus'"):
        models.choose_device("abacus")
    source = models.find("sd15")
    assert models.choose_dtype(None, source, "cpu") == "float32"
    assert models.choose_dtype(None, source, "cuda:0") == "float16"
    with pytest.raises(ValueError, match="unknown dtype 'half'; give one of float32"):
        models.choose_dtype("half", source, "cpu")


def test_compiling_approximated_arms_is_refused(tmp_path, capsys):
    """They would run eagerly, beside compiled exact ones, under the word "compiled"."""
    words = [
        "run",
        "--compile",
        "--arms",
        "dpm2m",
        "--scales",
        "2",
        "--limit",
        "1",
        "--seeds",
        "0",
        "--approximate",
    ]
    out = tmp_path / "run"
    assert main([*words, "cache[keys=uniform:2,depth=1]", "--out", str(out)]) == 2
    assert "leave one of --compile and --approximate out" in capsys.readouterr().err
    assert not out.exists()
