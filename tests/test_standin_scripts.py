"""The scripts that make and measure stand-ins: what they keep is whole and says how it was made."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from standins import evaluate, make_prompts, tokenizer, train_checker, train_unet
from standins.families import FAMILIES
from standins.training import Checkpoint, save_atomic, settings_of


def run(monkeypatch, script, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *words])
    script.main()


@pytest.mark.parametrize("name", ["make_prompts", "sizes"])
def test_asking_for_help_does_no_work(name, monkeypatch, capsys):
    script = importlib.import_module(f"standins.{name}")
    for work in {"files", "pictures"} & set(vars(script)):
        monkeypatch.setattr(script, work, lambda *_: pytest.fail("worked"))
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, script, "--help")
    assert stopped.value.code == 0 and f"python -m standins.{name}" in capsys.readouterr().out


def test_prompt_files_are_replaced_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(make_prompts, "FOLDER", tmp_path)
    monkeypatch.setattr(make_prompts, "files", lambda: {"some.txt": ["a red circle"]})
    chosen = make_prompts.Chosen(scenes=[(2, 7)])
    monkeypatch.setattr(make_prompts, "choose", lambda lines, start, taken: chosen)
    written = []
    monkeypatch.setattr(make_prompts, "write_atomic", lambda *pair: written.append(pair))
    run(monkeypatch, make_prompts)
    scenes = make_prompts.reference_text([(2, 7)]).encode()
    assert written == [
        (tmp_path / "some.txt", b"a red circle\n"),
        (make_prompts.REFERENCE, scenes),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a checker for two steps, fewer than any interval of its log."""
    folder = tmp_path_factory.mktemp("checker")
    words = ["--steps", "2", "--batch", "2", "--device", "cpu"]
    words += ["--out", str(folder), "--work", str(folder / "work")]
    with pytest.MonkeyPatch.context() as patch:
        run(patch, train_checker, *words)
    return folder, words


def test_a_short_training_ends_with_its_card(trained):
    card = json.loads((trained[0] / "card.json").read_text())
    assert card["end of loss.csv"]["step"] == "2" and card["settings"]["steps"] == 2


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [
        ("--rate", "0.1", "0.002"),
        ("--seed", "3", "0"),
        ("--steps", "1", "2"),
        ("--batch", "1", "2"),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_resumed(
    option, value, before, trained, monkeypatch, capsys
):
    """The card would state settings that made nothing."""
    folder, words = trained
    card = (folder / "card.json").read_text()
    with pytest.raises(SystemExit):
        run(monkeypatch, train_checker, *words, option, value)
    said = capsys.readouterr().err
    assert f"was made with {option} {before}, not {value}; give {before} to resume it" in said
    assert said.count("\n") == 1 and (folder / "card.json").read_text() == card


def test_more_steps_are_taken(tmp_path):
    file, asked = tmp_path / "checkpoint.pt", Namespace(steps=5, rate=0.1, device="cpu", work="a")
    assert settings_of(asked) == {"steps": 5, "rate": 0.1}
    assert Checkpoint(file, asked).load() is None
    save_atomic({"step": 2, "settings": {"steps": 4, "rate": 0.1}}, file)
    assert Checkpoint(file, asked).load()["step"] == 2


@pytest.mark.parametrize("name", ["vae", "clip"])
def test_the_other_trainings_ask_too(name, tmp_path, monkeypatch, capsys):
    save_atomic({"settings": {"seed": 5}}, tmp_path / "checkpoint.pt")
    script = importlib.import_module(f"standins.train_{name}")
    places = ["--out", str(tmp_path), *(["--work", str(tmp_path)] if name == "clip" else [])]
    with pytest.raises(SystemExit):
        run(monkeypatch, script, "--device", "cpu", *places)
    assert "was made with --seed 5, not 0; give 5 to resume it" in capsys.readouterr().err


# --- evaluate ------------------------------------------------------------------------------------


def test_samples_that_a_killed_process_left_in_part_are_absent(tmp_path):
    file = tmp_path / "kept.npy"
    assert evaluate.unspoilt(file, 3) is None
    np.save(file, np.ones((3, 64, 64, 3), np.uint8))
    assert evaluate.unspoilt(file, 3).sum() == 3 * 64 * 64 * 3
    assert evaluate.unspoilt(file, 4) is None
    whole = file.read_bytes()
    for size in (0, 40, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert evaluate.unspoilt(file, 3) is None


def test_samples_are_kept_whole_and_those_of_other_code_are_not_taken(tmp_path, monkeypatch):
    drawn = evaluate.Gallery(evaluate.FOLDER / "sd15", "ddim", 1, tmp_path)
    first = drawn.pixels(["a red circle"], 2.0)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    assert (drawn.pixels(["a red circle"], 2.0) == first).all()
    assert (evaluate.unspoilt(file, 1) == first).all()
    monkeypatch.setattr(evaluate, "code_digest", lambda: "another")
    drawn.pixels(["a red circle"], 2.0)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_of_an_evaluation_is_made_before_the_work(tmp_path, monkeypatch):
    out = tmp_path / "new" / "e.json"
    monkeypatch.setattr(sys, "argv", ["evaluate", "sd15", "--out", str(out)])
    assert evaluate.parse_args().out == out and out.parent.is_dir()


@pytest.mark.parametrize("words", [("--wrong", "1.5"), ("--drop", "nan"), ("--wrong", "half")])
def test_a_share_is_a_share(words, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, train_unet, "sd15", *words)
    assert f"{words[0]}: '{words[1]}' must be a share from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_may_start_from_an_exported_standin(family):
    """As the -web stand-ins did from those of their family: all weights are taken over."""
    tokens = tokenizer.load(evaluate.FOLDER / family / "tokenizer")
    model = FAMILIES[family](tokens)
    start = train_unet.weights_of(evaluate.FOLDER / family)
    assert train_unet.take_over(model, start) == len(list(model.parameters()))
    assert all(torch.equal(weight, start[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_captions_is_replaced(share):
    torch.manual_seed(0)
    ids = torch.arange(4000).reshape(1000, 4)
    others = train_unet.replaced(ids, ids.roll(1, 0), share)
    rows = (others != ids).any(1)
    assert rows.float().mean().item() == pytest.approx(share, abs=0.06)
    assert torch.equal(others[rows], ids.roll(1, 0)[rows])
