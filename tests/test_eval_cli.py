"""Image files, progress and the command line of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_double import Double, place, spoil
from PIL import Image

from eval.__main__ import main
from eval.arms import DEFAULT_ARMS, parse_arms
from eval.images import is_flat, is_valid_png, to_uint8, write_png
from eval.progress import Progress
from eval.reading import read_image
from eval.run import run
from eval.transform import open_image
from samplers import available


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


# --- images --------------------------------------------------------------------------------------


def test_png_bytes_are_exact_and_repeatable(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    texts = {"prompt": "größe 猫", "seed": "3"}
    write_png(tmp_path / "a.png", pixels, texts)
    write_png(tmp_path / "b.png", pixels, texts)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert is_valid_png(tmp_path / "a.png", (7, 9), texts)
    assert not is_valid_png(tmp_path / "a.png", (9, 7), texts)
    assert not is_valid_png(tmp_path / "a.png", (7, 9), texts | {"seed": "4"})
    assert not is_valid_png(tmp_path / "absent.png", (7, 9), texts)
    for cut in range(0, len(data), 5):
        (tmp_path / "a.png").write_bytes(data[:cut])
        assert not is_valid_png(tmp_path / "a.png", (7, 9), texts), cut
    for spot in (
        *range(0, len(data) - 16, 5),
        *range(len(data) - 16, len(data)),
    ):  # a flipped bit anywhere
        (tmp_path / "a.png").write_bytes(data[:spot] + bytes([data[spot] ^ 16]) + data[spot + 1 :])
        assert not is_valid_png(tmp_path / "a.png", (7, 9), texts), spot
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_rounding_is_to_nearest_and_clips():
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.7, -0.3]).view(1, 1, 2, 3)
    levels = to_uint8(values.expand(1, 3, 2, 3))
    assert levels.shape == (1, 2, 3, 3) and levels[0, ..., 0].ravel().tolist() == [
        0,
        0,
        1,
        255,
        255,
        0,
    ]


def test_flat_images():
    image = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    assert is_flat(image)
    image[3, 3, 1] += 3  # nearly constant
    assert is_flat(image)
    image[2:6, 2:6, 1] += 3
    assert not is_flat(image)


# --- command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--model", "nothing-here", "--out", "{out}"],
        ["run", "--model", "{model}", "--seeds", "4-0", "--out", "{out}"],
        ["run", "--model", "{model}", "--scales", "x", "--out", "{out}"],
        ["run", "--model", "{model}", "--prompts", "absent.txt", "--out", "{out}"],
        ["run", "--model", "{model}", "--arms", "dimm", "--prompts", "{prompts}", "--out", "{out}"],
        ["run", "--model", "{model}", "--prompts", "{prompts}", "--nfe", "0", "--out", "{out}"],
        ["run", "--model", "{model}", "--prompts", "{prompts}", "--device", "x", "--out", "{out}"],
        ["run", "--nfe", "many", "--out", "{out}"],
        ["run"],
        ["sing"],
        [],
    ],
)
def test_bad_input_exits_with_2_and_one_line(folder, capsys, words):
    places = {"out": folder / "r", "model": folder / "tiny", "prompts": folder / "prompts.txt"}
    try:
        code = main([word.format(**places) for word in words])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (folder / "r").exists()


def test_run_prints_where_things_are_and_what_comes_next(folder, capsys, monkeypatch):
    monkeypatch.setattr(run, "__defaults__", (lambda *_: Double(spoil),))
    places = ["--model", str(folder / "tiny"), "--prompts", str(folder / "prompts.txt")]
    words = ["run", *places, "--arms", "ddim", "--scales", "3", "--seeds", "0-1", "--nfe", "4"]
    words += ["--limit", "2", "--no-score", "--out", str(folder / "r")]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "4 images drawn, 0 were there" in captured.out
    assert f"next: python -m eval score {folder / 'r'}" in captured.out
    assert "ddim@w3: 1 constant image, 1 NaN" in captured.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 4


@pytest.mark.parametrize(
    "command",
    ["run", "score", "report", "reference", "generate", "invert", "edit", "info", "prefetch"],
)
def test_help_opens_with_examples(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0 and any(f"python -m eval {command}" in line for line in lines[:4])


def test_the_default_arms_exist():
    guidance = {recipe.name: recipe.guidance for recipe in available()}
    assert len(parse_arms(DEFAULT_ARMS, (3.0,), guidance)) == 9


def test_progress_off_a_terminal_is_plain_lines(capsys):
    with Progress(4, "run", done=2) as progress:
        progress.advance(2)
    assert capsys.readouterr().err.startswith("run: 4/4 images, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bootstrap", "0"], "--bootstrap 0: must be at least 1"),
        (["--reference", "nosuch.npz"], "reference 'nosuch.npz': no such folder or file"),
        (["--nfe", "0"], "nfe is 0; it must be at least 1"),
        (["--batch", "0"], "batch is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_drawn(flags, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", "--limit", "1", "--out", str(out), *flags]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_what_scoring_lacks_is_said_before_anything_is_drawn(folder, tmp_path, capsys, monkeypatch):
    """Of a real model the networks are looked for first; of a stand-in they are in the checkout."""
    (folder / "tiny" / "card.json").unlink()
    words = ["run", "--model", str(folder / "tiny"), "--out", str(tmp_path / "run")]
    asked = []

    def lacking(scorer, standin, fid, second=None, device=None):
        asked.append((scorer, standin, fid))
        return None, {"fid": "InceptionV3 weights missing"} if fid else {"second scorer": "missing"}

    monkeypatch.setattr("eval.judge.extractor_for", lacking)
    monkeypatch.setattr("eval.run.run", lambda request: pytest.fail("drawn"))
    np.savez(tmp_path / "r.npz", features=np.eye(9))
    assert main([*words, "--reference", str(tmp_path / "r.npz")]) == 2
    assert capsys.readouterr().err == (
        "error: --reference is given, and FID cannot be had: InceptionV3 weights missing\n"
    )
    (tmp_path / "none").mkdir()
    assert main([*words, "--reference", str(tmp_path / "none")]) == 2
    assert "0 images; FID needs at least 2" in capsys.readouterr().err
    assert asked == [(None, False, True)]


def test_an_image_of_a_vast_size_is_refused_in_one_line(tmp_path, capsys):
    """Pillow raises an exception of its own for more than 179 million pixels."""
    Image.new("1", (13400, 13400)).save(tmp_path / "vast.png")
    assert main(["info", str(tmp_path / "vast.png")]) == 2
    assert "DecompressionBombError" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    with pytest.raises(ValueError, match="not a readable image"):
        read_image(tmp_path / "vast.png")
    with pytest.raises(ValueError, match=r"cannot read .*vast\.png as an image"):
        open_image(tmp_path / "vast.png")


@pytest.mark.parametrize(("model", "file"), [("standin-sd20", "scenes100"), ("sdxl", "coco100")])
def test_captions_are_by_default_those_of_the_models_language(model, file, tmp_path, monkeypatch):
    asked = []

    def stop(request):
        asked.append(request.prompts)
        raise ValueError("far enough")

    monkeypatch.setattr("eval.run.run", stop)
    assert main(["run", "--model", model, "--no-score", "--out", str(tmp_path / "run")]) == 2
    assert asked == [Path(f"prompts/{file}.txt")]
