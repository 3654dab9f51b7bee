"""Every input that `python -m eval generate` cannot use: one line, exit code 2, nothing written."""

from __future__ import annotations

import pytest
from eval_double import Double, place

from eval.__main__ import main
from eval.generate import generate
from eval.targets import targets


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


BAD = {
    "no prompt": ([], "nothing to draw"),
    "method": (["--method", "dpm3msde"], "unknown solver 'dpm3msde'; did you mean 'dpm3m_sde'?"),
    "two methods": (["--method", "ddim,dpm2m"], "give one"),
    "scale in the method": (["--method", "ddim@3"], "--cfg_guidance or --omega"),
    "needs an image": (["--method", "ddim_edit_cfg++"], "python -m eval edit"),
    "not finite": (["--cfg_guidance", "nan"], "cfg_guidance is nan"),
    "not a number": (["--cfg_guidance", "much"], "invalid float value: 'much'"),
    "two strengths": (["--cfg_guidance", "3", "--omega", "3"], "give one"),
    "NFE": (["--NFE", "0"], "NFE is 0"),
    "batch": (["--batch", "0"], "batch is 0"),
    "option": (["--option", "warmth=3"], "takes no option warmth=3"),
    "grid": (["--grid", "karas"], "did you mean 'karras'?"),
    "seeds": (["--seed", "5-1"], "runs backwards"),
    "checkpoint": (["--checkpoint", "unet"], "_lightning"),
    "lightning": (["--method", "ddim_lightning"], "--checkpoint"),
    "device": (["--device", "abacus"], "cannot use device 'abacus'"),
    "model": (["--model", "sd-xl"], "did you mean 'sdxl'?"),
    "file type": (["--out", "x.jpg"], "ending in .png"),
    "place": (["--out", "{folder}/prompts.txt/x.png"], "is a file, not a folder"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD.keys())
def test_unusable_input_is_one_line_and_writes_nothing(folder, capsys, monkeypatch, words, message):
    def load(_source, _nfe, _device, _dtype, solver=None, checkpoint=None):
        if solver:
            from latent_diffusion import get_solver

            get_solver(solver)
        return Double()

    monkeypatch.setattr(generate, "__defaults__", (load,))
    given = ["generate", "--model", str(folder / "tiny"), "--out", str(folder / "x.png")]
    given += [] if message == "nothing to draw" else ["--prompt", "a"]
    try:
        code = main([*given, *(word.format(folder=folder) for word in words)])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    error = captured.err.splitlines()[-1]
    assert error.startswith("error: ") and message in error and captured.err.count("\n") == 1
    assert not list(folder.glob("x*"))


def test_a_folder_without_permission_is_refused_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ValueError, match="no permission to write into"):
        targets(tmp_path / "new" / "x.png", ["a"])
