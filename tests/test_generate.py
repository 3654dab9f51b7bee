"""Pictures from the command line: files, text chunks, strengths."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from eval_double import SIDE, Double, place
from PIL import Image

from eval import models
from eval.__main__ import main
from eval.generate import Request, generate
from eval.image_text import chunks, read_chunks
from eval.images import to_uint8
from eval.targets import contact_sheet
from samplers import compile_plan

STANDINS = ["standin-sd15", "standin-sd20", "standin-sdxl"]


class Recorder(Double):
    """A double that keeps the plans that it was given."""

    def __init__(self, edit=None):
        super().__init__(edit)
        self.plans, self.null_prompts = [], []

    def generate(self, plan, prompts, seeds, null_prompt=""):
        self.plans.append(plan)
        self.null_prompts.append(null_prompt)
        return super().generate(plan, prompts, seeds, null_prompt)


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


@pytest.fixture
def double(monkeypatch):
    """What the command line loads instead of a model."""
    model = Recorder()
    monkeypatch.setattr(generate, "__defaults__", (lambda *_: model,))
    return model


def request(folder, **changes) -> Request:
    values = {
        "model": str(folder / "tiny"),
        "method": "ddim",
        "prompts": ("a red circle",),
        "seeds": (3,),
        "out": folder / "x.png",
        "nfe": 4,
        "device": "cpu",
    }
    return Request(**(values | changes))


def draw(folder, model=None, **changes):
    model = model or Recorder()
    return generate(request(folder, **changes), lambda *_: model), model


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# --- pictures ------------------------------------------------------------------------------------


def test_pixels_are_the_rounded_images_without_contrast_stretching(folder):
    def flatten(_batch, _latents, images):
        images.mul_(0.1).add_(0.4)

    drawing, model = draw(folder, Recorder(flatten))
    _, images = Recorder(flatten).generate(model.plans[0], ["a red circle"], [3])
    seen = pixels(folder / "x.png")
    assert np.array_equal(seen, to_uint8(images)[0])
    assert seen.min() >= 102 and seen.max() <= 128  # 0.4 and 0.5 of 255
    assert drawing.images == [{"file": str(folder / "x.png"), "prompt": "a red circle", "seed": 3}]
    assert drawing.sheet is None and not list(folder.glob("*.tmp"))


@pytest.mark.parametrize(
    ("out", "first", "sheet"),
    [("x.png", "x_000_1.png", "x.png"), ("new/set", "new/set/000_1.png", "new/set/sheet.png")],
)
def test_several_images_are_numbered_and_shown_together(folder, out, first, sheet):
    places = {"prompts": ("a", "b"), "seeds": (1, 2, 5), "out": folder / out}
    drawing, model = draw(folder, batch=4, **places)
    assert [len(batch) for batch in model.batches] == [4, 2]
    assert [*model.batches[0], *model.batches[1]] == [(p, s) for p in "ab" for s in (1, 2, 5)]
    assert drawing.images[0]["file"] == str(folder / first)
    assert drawing.images[-1]["file"].endswith("001_5.png")
    assert drawing.sheet == folder / sheet
    assert pixels(drawing.sheet).shape == (2 * SIDE + 2, 3 * SIDE + 4, 3)
    for image in drawing.images:
        made = json.loads(read_chunks(image["file"])["samplers"])
        assert (made["prompt"], made["seed"]) == (image["prompt"], image["seed"])


def test_contact_sheet_keeps_order_and_shrinks_large_pictures():
    levels = [np.full((512, 256, 3), level, np.uint8) for level in (0, 90, 180)]
    sheet = contact_sheet(levels, columns=2)
    assert sheet.shape == (2 * 256 + 2, 2 * 128 + 2, 3)
    corners = [sheet[y, x, 0] for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    assert corners == [0, 90, 180, 255]


def test_an_existing_picture_is_replaced_or_kept_whole(folder):
    draw(folder)
    before = (folder / "x.png").read_bytes()
    draw(folder, seeds=(4,))
    after = (folder / "x.png").read_bytes()
    assert after != before

    def spoil(_batch, latents, _images):
        latents[0] = torch.nan

    with pytest.raises(ValueError, match="'a red circle', seed 3: the image has NaN"):
        draw(folder, Recorder(spoil))
    assert (folder / "x.png").read_bytes() == after


# --- parameters ----------------------------------------------------------------------------------


def test_png_says_how_it_was_made(folder, capsys):
    options = {"method": "dpm3m_sde", "options": ("eta=0.5",), "grid": "uniform"}
    draw(folder, **options, cfg_guidance=5, null_prompt="ugly, blurred")
    found = read_chunks(folder / "x.png")
    lines = found["parameters"].splitlines()
    assert lines[:2] == ["a red circle", "Negative prompt: ugly, blurred"]
    assert lines[2].startswith(
        "Steps: 4, Sampler: dpm3m_sde, CFG scale: 5, Seed: 3, Size: 16x16, Model: tiny, "
        "Stand-in: small stand-in model for tests; not Stable Diffusion, Schedule type: uniform"
    )
    made = json.loads(found["samplers"])
    expected = {"nfe": 4, "scale": 5.0, "options": {"eta": 0.5}, "standin": True, "seed": 3}
    assert made.items() >= expected.items()
    assert made["sha256"] and str(folder) not in json.dumps(made)

    assert main(["info", str(folder / "x.png")]) == 0
    said = capsys.readouterr().out
    assert "Negative prompt: ugly, blurred" in said and '"nfe": 4' in said
    assert main(["info", str(folder / "x.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_only_a_standin_is_marked_as_one(folder):
    (folder / "tiny" / "card.json").unlink()
    draw(folder)
    found = read_chunks(folder / "x.png")
    assert "Stand-in" not in found["parameters"]
    assert json.loads(found["samplers"])["standin"] is False


def test_values_with_separators_are_quoted():
    line = chunks({"prompt": "p", "model": 'a, "b": c', "seed": 0})["parameters"].splitlines()[-1]
    assert line == 'Seed: 0, Model: "a, \\"b\\": c"'


def test_strength_options_and_grid_reach_the_plan(folder):
    _, model = draw(folder, method="exp2m_cfg++[order=3]", options=("eta=0.5",), cfg_guidance=0.8)
    (plan,) = model.plans
    wanted = compile_plan("exp2m_cfg++", model.schedule, 4, 0.8, order=3, eta=0.5)
    assert plan.rows == wanted.rows and len(plan) == 4

    drawing, model = draw(folder, method="exp2m_cfg++", cfg_guidance=7.5)
    wanted = compile_plan("exp2m_cfg++", model.schedule, 4, omega=7.5)
    assert model.plans[0].rows == wanted.rows  # not lambda 7.5, which burns the image
    assert "read as omega" in drawing.notes[0]

    _, model = draw(folder, omega=3.0, grid="uniform", null_prompt="n")
    assert model.plans[0].rows == compile_plan("ddim", model.schedule, 4, 3.0, grid="uniform").rows
    assert model.null_prompts == ["n"]


def test_the_two_meanings_of_ddim_cfgpp_are_told(folder):
    drawing, _ = draw(folder, method="ddim_cfg++")
    assert 'get_solver("ddim_cfg++") runs exp2m_cfg++' in drawing.notes[0]


@pytest.mark.parametrize("spelling", [["--NFE", "4"], ["--nfe", "4"]])
def test_command_line(folder, double, capsys, spelling):
    (folder / "p.txt").write_text("one\ntwo\n")
    words = ["generate", "--model", str(folder / "tiny"), "--prompts", str(folder / "p.txt")]
    words += ["--seed", "7-8", "--cfg-guidance", "0.5", "--null-prompt", "bad", *spelling]
    words += ["--method", "exp2m_cfg++", "--out", str(folder / "set")]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        *(f"{folder}/set/{name}.png" for name in ("000_7", "000_8", "001_7", "001_8")),
        f"contact sheet: {folder}/set/sheet.png",
    ]
    assert "exp2m_cfg++: 4 evaluations, scale 0.5" in captured.err
    assert main([*words, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert len(written["images"]) == 4 and written["sheet"].endswith("sheet.png")


def test_files_without_chunks_and_other_files_are_explained(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("plain.png", "has no text chunks"),
        ("text.png", "not a readable image"),
        ("absent.png", "no file"),
    ):
        assert main(["info", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


# --- the stand-ins -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STANDINS)
def test_standin_draws_what_its_solver_draws(name, tmp_path, capsys):
    words = ["--prompt", "a large red circle", "--cfg_guidance", "0.6", "--NFE", "3"]
    words += ["--seed", "5", "--device", "cpu", "--out", str(tmp_path / "x.png")]
    assert main(["generate", "--model", name, "--method", "exp2m_cfg++", *words]) == 0
    said = capsys.readouterr().err
    kind = {"standin-sd20": "v-prediction", "standin-sdxl": "SDXL, epsilon"}.get(name, "epsilon")
    assert f"loaded {name} (standins/" in said and kind in said and "64×64, float32 on cpu" in said

    source = models.find(name)
    solver = models.load(source, 3, "cpu", "float32", solver="exp2m_cfg++")
    images = models.ask(solver, ["", "a large red circle"], cfg_guidance=0.6, seeds=5)
    theirs, ours = to_uint8(images)[0].astype(int), pixels(tmp_path / "x.png").astype(int)
    assert np.abs(theirs - ours).max() <= 1  # one level: sums may be ordered otherwise


def test_an_image_depends_on_its_prompt_and_seed_alone(tmp_path):
    common = {"model": "standin-sd15", "method": "dpm3m_sde", "nfe": 3, "device": "cpu"}
    several = {"prompts": ("a blue star", "a red circle"), "seeds": (1, 2)}
    generate(Request(**common, **several, out=tmp_path / "set"))
    generate(Request(**common, prompts=("a red circle",), seeds=(2,), out=tmp_path / "x.png"))
    alone, among = pixels(tmp_path / "x.png"), pixels(tmp_path / "set" / "001_2.png")
    assert np.abs(alone.astype(int) - among.astype(int)).max() <= 1
