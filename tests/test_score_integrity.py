"""Scoring a damaged or unfinished run: every bad picture is named, and its arm compared nowhere."""

import numpy as np
import pytest
from PIL import Image
from synthetic_run import MeanColours, make_reference, make_run

from eval import score
from eval.extractor import Extractor
from eval.records import Records


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "extractor_for", lambda *_: (Extractor(MeanColours()), {}))
    make_reference(tmp_path / "reference.npz")
    return make_run(tmp_path / "run")


def scored(run):
    return score.score(run, reference=str(run.parent / "reference.npz"), bootstrap=50)


def test_bad_images_are_counted_left_out_and_make_the_arm_invalid(run, capsys):
    images = run / "images" / "ddim@w3"
    data = (images / "000_0.png").read_bytes()
    (images / "000_0.png").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (64, 64), "red").save(images / "000_1.png")
    Image.new("RGB", (32, 32), "red").save(images / "000_2.png")
    (images / "001_0.png").unlink()
    Records(run).replace("ddim@w3", 0, {"001_1.png": "NaN in the latent"})
    whole = (images / "002_0.png").read_bytes()
    (images / "002_0.png").write_bytes(whole[:-12])  # Pillow does not miss the end chunk
    results = scored(run)
    cell = results["cells"]["ddim@w3"]
    assert (cell["n"], cell["invalid"], cell["missing"], cell["valid"]) == (6, 6, 1, False)
    reasons = " ".join(cell["invalid_files"])
    for part in ("not a readable", "single colour", "32×32", "missing", "NaN in the latent"):
        assert part in reasons
    rows = [r for r in results["paired"] if r["baseline"] == "ddim"]
    assert rows and all(row["clip"] == {"verdict": "invalid"} for row in rows)
    assert results["verdict"]["clip"]["ddim"] == results["verdict"]["fid"]["ddim"] == "invalid"
    assert "difference" in results["front"]["clip"]["ddim_cfg++"]
    assert any("ddim@w3 (5)" in note for note in results["notes"])
    assert "6 (1 missing)" in capsys.readouterr().out


def test_nearly_constant_pictures_are_invalid(run):
    """A range of 60 levels in a few pixels: the standard deviation decides."""
    pixels = np.full((64, 64, 3), 100, np.uint8)
    pixels[0, 0] = 160
    Image.fromarray(pixels).save(run / "images" / "ddim@w3" / "000_0.png")
    assert scored(run)["cells"]["ddim@w3"]["invalid"] == 1


def test_pictures_with_the_same_pixels_are_invalid_both(run):
    images = run / "images" / "ddim@w3"
    (images / "000_0.png").write_bytes((images / "002_1.png").read_bytes())
    cell = scored(run)["cells"]["ddim@w3"]
    assert (cell["duplicates"], cell["invalid"], cell["n"]) == (2, 2, 10)
    assert cell["invalid_files"] == [
        "000_0.png: the same pixels as 002_1.png",
        "002_1.png: the same pixels as 000_0.png",
    ]


def test_an_unfinished_run_says_how_many_are_missing_and_what_to_do(run, capsys):
    for path in sorted((run / "images" / "ddim@w3").iterdir())[:5]:
        path.unlink()
    results = scored(run)
    assert any("5 of 144 images are missing, of ddim" in note for note in results["notes"])
    assert results["verdict"]["clip"]["ddim"] == "invalid"
    assert f"--out {run}" in capsys.readouterr().out


def test_an_invalid_focus_arm_makes_every_verdict_invalid(run):
    (run / "images" / "exp2m_cfg++@w3" / "000_0.png").unlink()
    results = scored(run)
    assert set(results["verdict"]["clip"].values()) == {"invalid"}
    assert results["matched"]["clip"] == [] and results["default_scale"] is None


def test_an_arm_without_images_and_a_run_without_images(run):
    for key in ("ddim@w3", "ddim@w5", "ddim@w7.5", "ddim@w1.5"):
        for path in (run / "images" / key).iterdir():
            path.unlink()
    results = scored(run)
    assert results["cells"]["ddim@w3"]["clip"] is None
    assert results["verdict"]["clip"]["ddim"] == "invalid"
    for path in run.glob("images/*/*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="no usable image"):
        scored(run)
