"""Inversion and editing from the command line: images in, a solver's answer out."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from eval_double import SIDE, Double, place
from PIL import Image

from eval.__main__ import main
from eval.image_text import read_chunks
from eval.transform import fit, open_image, psnr, to_tensor, transform


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


class Mirror(Double):
    """A solver that returns the given image, half as bright."""

    def sample(self, prompt, cfg_guidance, src_img, seeds):
        self.asked = SimpleNamespace(
            prompt=prompt, cfg_guidance=cfg_guidance, src_img=src_img, seeds=seeds
        )
        return (src_img / 2 + 0.5) / 2


@pytest.fixture
def mirror(monkeypatch):
    solver = Mirror()
    solver.names = []

    def load(_source, _nfe, _device, _dtype, name):
        solver.names.append(name)
        return solver

    monkeypatch.setattr(transform, "__defaults__", (load,))
    return solver


@pytest.fixture
def picture(folder):
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "in.png")
    return values


def test_edit_hands_the_image_over_and_writes_the_answer(folder, mirror, picture, capsys):
    words = ["edit", "--model", str(folder / "tiny"), "--image", str(folder / "in.png")]
    words += ["--source", "a red circle", "--target", "a blue circle", "--NFE", "10"]
    assert main([*words, "--seed", "9", "--out", str(folder / "out.png")]) == 0
    assert mirror.names == ["ddim_edit_cfg++"]
    assert mirror.asked.prompt == ["", "a red circle", "a blue circle"]
    assert (mirror.asked.cfg_guidance, mirror.asked.seeds) == (0.2, 9)
    assert torch.equal(mirror.asked.src_img, to_tensor(picture))
    assert mirror.asked.src_img.min() >= -1 and mirror.asked.src_img.max() <= 1
    out = pixels(folder / "out.png").astype(float)
    assert np.abs(out - picture / 2).max() <= 0.5 + 1e-3  # rounding
    made = json.loads(read_chunks(folder / "out.png")["samplers"])
    assert made["prompt"] == "a blue circle" and made["source"] == "a red circle"
    assert made["image"] == "in.png" and made["standin"] is True
    assert f"PSNR {psnr(picture, pixels(folder / 'out.png')):.2f} dB" in capsys.readouterr().out


def test_inversion_of_a_larger_image_says_that_it_was_fitted(folder, mirror, capsys):
    Image.new("RGB", (60, 40), "red").save(folder / "in.jpg")
    words = ["invert", "--model", str(folder / "tiny"), "--image", str(folder / "in.jpg")]
    words += ["--prompt", "red", "--method", "ddim_inversion", "--out", str(folder / "out.png")]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    line = f"{folder / 'in.jpg'}: 60×40 cropped at the centre and resized to 16×16 (Lanczos)\n"
    assert line in captured.err
    assert mirror.asked.src_img.shape == (1, 3, SIDE, SIDE)
    assert mirror.asked.cfg_guidance == 7.5 and mirror.asked.prompt == ["", "red"]
    assert json.loads(captured.out)["file"] == str(folder / "out.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "{folder}/absent.png"], "no image"),
        (["--image", "{folder}/cut.png"], "cannot read"),
        (["--image", "{folder}/prompts.txt"], "cannot read"),
        (["--method", "ddim"], "unknown method 'ddim'. Known: ddim_inversion, ddim_inv"),
        (["--cfg_guidance", "inf"], "cfg_guidance is inf"),
        (["--NFE", "0"], "NFE is 0"),
    ],
)
def test_unusable_images_and_methods_are_one_line(folder, mirror, picture, capsys, words, message):
    (folder / "cut.png").write_bytes((folder / "in.png").read_bytes()[:200])
    given = ["invert", "--model", str(folder / "tiny"), "--prompt", "p"]
    given += ["--image", str(folder / "in.png"), "--out", str(folder / "out.png")]
    assert main([*given, *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (folder / "out.png").exists() and not mirror.names


def test_images_are_read_upright_and_on_white(tmp_path):
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_image(tmp_path / "clear.png")).min() == 255
    turned = Image.new("RGB", (3, 2))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (2, 3)
    assert fit(Image.new("RGB", (4, 4)), (4, 4))[1] is None


def test_psnr():
    a = np.zeros((2, 2, 3), np.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 255) == pytest.approx(0)
    assert psnr(a, a + 1) == pytest.approx(20 * math.log10(255))


def test_standin_keeps_an_image_through_inversion_and_changes_it_by_an_edit(tmp_path, capsys):
    words = ["--device", "cpu", "--NFE", "20", "--out"]
    prompt, other = "a large red circle", "a large blue circle"
    start, back, blue = (str(tmp_path / f"{name}.png") for name in ("start", "back", "blue"))
    assert main(["generate", "--prompt", prompt, "--grid", "karras", *words, start]) == 0
    assert main(["invert", "--prompt", prompt, "--image", start, *words, back]) == 0
    assert psnr(pixels(start), pixels(back)) > 25  # dB
    change = ["--source", prompt, "--target", other, "--image", start]
    assert main(["edit", *change, *words, blue]) == 0
    before, after = (pixels(path)[24:40, 24:40].mean((0, 1)) for path in (start, blue))
    assert before[0] > 2 * before[2] and after[2] > after[0]  # blue where red was
    made = json.loads(read_chunks(blue)["samplers"])
    assert made["model"] == "standin-sd15" and made["scale"] == 0.2
