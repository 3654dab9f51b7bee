"""Scoring a run folder: caches, bad images, determinism, references, missing parts."""

import csv
import json

import numpy as np
import pytest
import synthetic_run
from PIL import Image
from synthetic_run import MeanColours, make_reference, make_run

from eval import features, reference, score
from eval.features import Extractor


@pytest.fixture
def scorer(monkeypatch):
    """Put the network-free scorer in the place of open_clip; returns it."""
    found = MeanColours()
    monkeypatch.setattr(
        score, "extractor_for", lambda *_: (Extractor(found), {"checker": "not in this test"})
    )
    return found


@pytest.fixture
def run(tmp_path, scorer):
    make_reference(tmp_path / "reference.npz")
    return make_run(tmp_path / "run")


def scored(run, **options):
    return score.score(run, reference=str(run.parent / "reference.npz"), bootstrap=50, **options)


def test_table_and_files(run, capsys):
    results = scored(run)
    out = capsys.readouterr().out
    assert out.startswith("stand-in standin-sd15: not SD numbers\n")
    assert "Table: stand-in standin-sd15: not SD numbers" in out
    assert "FID at matched CLIP: exp2m_cfg++" in out and "0.100" in out
    cell = results["cells"]["exp2m_cfg++@w3"]
    assert cell["n"] == 12 and cell["valid"] and cell["all_right"] is None
    assert cell["fid"] > 0 and cell["fid_floor"] > 0 and cell["kid"] is not None
    assert results["cells"]["ddim@w1.5"]["clip"] < results["cells"]["ddim@w7.5"]["clip"]
    assert "checker missing: not in this test" in results["notes"]
    with (run / "per_prompt.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 4 and rows[0]["text"] == synthetic_run.PROMPTS[0]
    own = [float(r["clip"]) for r in rows if r["key"] == "ddim@w3"]
    assert np.mean(own) == pytest.approx(results["cells"]["ddim@w3"]["clip"], abs=1e-3)


def test_the_comparison_is_paired_and_signed(run):
    results = scored(run)
    row = next(r for r in results["paired"] if (r["baseline"], r["omega"]) == ("ddim", 3.0))
    cells = results["cells"]
    for name in ("clip", "fid"):
        gap = cells["exp2m_cfg++@w3"][name] - cells["ddim@w3"][name]
        assert row[name]["difference"] == pytest.approx(gap)
    assert row["clip"]["verdict"] == "better"


def test_scoring_twice_is_byte_identical_whatever_the_time_and_place(run, tmp_path):
    scored(run)
    names = ("results.json", "results.csv", "per_prompt.csv")
    first = [(run / name).read_bytes() for name in names]
    (run / "timing.json").unlink()
    for cache in (run / "features").iterdir():
        cache.unlink()
    moved = run.rename(tmp_path / "elsewhere")
    scored(moved)
    assert [(moved / name).read_bytes() for name in names] == first
    assert str(tmp_path).encode() not in b"".join(first)
    assert not list(moved.rglob("*.tmp"))


def test_features_are_cached_and_a_changed_image_is_read_again(run, scorer):
    before = scored(run)
    calls = scorer.calls
    assert scored(run) == before and scorer.calls == calls
    path = run / "images" / "ddim@w3" / "001_2.png"
    Image.fromarray(synthetic_run.draw("another prompt", "ddim", 1.5, 9)).save(path)
    after = scored(run)
    assert scorer.calls == calls + 1
    assert after["cells"]["ddim@w3"]["clip"] < before["cells"]["ddim@w3"]["clip"]
    assert after["cells"]["ddim@w5"] == before["cells"]["ddim@w5"]


def test_a_damaged_cache_is_made_again(run):
    before = scored(run)
    (run / "features" / "ddim@w3.npz").write_bytes(b"PK not a zip")
    assert scored(run) == before


def test_bad_images_are_counted_left_out_and_make_the_point_invalid(run):
    images = run / "images" / "ddim@w3"
    data = (images / "000_0.png").read_bytes()
    (images / "000_0.png").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (64, 64), "red").save(images / "000_1.png")
    Image.new("RGB", (32, 32), "red").save(images / "000_2.png")
    (images / "001_0.png").unlink()
    (run / "invalid.json").write_text(
        json.dumps({"ddim@w3": [{"file": "001_1.png", "reason": "NaN in the latent"}]})
    )
    results = scored(run)
    cell = results["cells"]["ddim@w3"]
    assert (cell["n"], cell["invalid"], cell["valid"]) == (7, 5, False)
    reasons = " ".join(cell["invalid_files"])
    for part in ("not a readable", "single colour", "32×32", "missing", "NaN in the latent"):
        assert part in reasons
    assert not [r for r in results["paired"] if (r["baseline"], r["omega"]) == ("ddim", 3.0)]
    assert any("ddim@w3" in note for note in results["notes"])


def test_an_arm_without_images_and_a_run_without_images(run):
    for key in ("ddim@w3", "ddim@w5", "ddim@w7.5", "ddim@w1.5"):
        for path in (run / "images" / key).iterdir():
            path.unlink()
    results = scored(run)
    assert results["cells"]["ddim@w3"]["clip"] is None
    assert results["verdict"]["clip"]["ddim"] == "out of range"
    for path in run.glob("images/*/*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="no usable image"):
        scored(run)


def test_one_scale_one_seed_one_prompt(tmp_path, scorer, capsys):
    make_reference(tmp_path / "reference.npz")
    run = make_run(tmp_path / "run", omegas=(3.0,), prompts=synthetic_run.PROMPTS[:1], seeds=(0,))
    results = scored(run)
    assert results["cells"]["ddim@w3"]["fid"] is None
    two = make_run(tmp_path / "two", omegas=(3.0,))
    results = scored(two)
    assert results["matched"]["clip"] == [] and len(results["paired"]) == 2
    assert "at equal ω" in capsys.readouterr().out


def test_a_real_model_without_a_reference_has_no_fid_and_says_why(run, capsys):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"standin": False, "model": "sd15"}))
    results = score.score(run, bootstrap=50)
    assert results["cells"]["ddim@w3"]["fid"] is None
    assert "--reference" in results["fid"]["reason"]
    out = capsys.readouterr().out
    assert out.startswith("model sd15\n") and "stand-in" not in out


def test_focus_falls_back_to_the_last_arm(tmp_path, scorer):
    make_reference(tmp_path / "reference.npz")
    run = make_run(tmp_path / "run", arms=("ddim", "euler"))
    assert scored(run)["focus"] == "euler"


# --- references -----------------------------------------------------------------------------------


def test_rendered_reference_is_cached(tmp_path, capsys):
    scorer = MeanColours()
    first = reference.rendered(Extractor(scorer), 40, tmp_path)
    calls = scorer.calls
    again = reference.rendered(Extractor(scorer), 40, tmp_path)
    assert scorer.calls == calls and (first.features == again.features).all()
    assert len(first.features) == first.statistics.n == 40


def test_folder_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(80, 120, 3), (64, 64, 3), (200, 100, 3)]):
        pixels = rng.integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    found = reference.load(str(tmp_path), synthetic_run.extractor(), (64, 64), False)
    assert found.features.shape == (3, 12) and "bicubic" in found.label
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png.*remove or replace"):
        reference.load(str(tmp_path), synthetic_run.extractor(), (64, 64), False)


def test_statistics_as_reference(tmp_path, run):
    data = np.load(run.parent / "reference.npz")["features"].astype(np.float64)
    path = tmp_path / "stats.npz"
    np.savez(path, mu=data.mean(0), sigma=np.cov(data, rowvar=False), n=len(data))
    by_statistics = score.score(run, reference=str(path), bootstrap=20)["cells"]["ddim@w3"]
    by_features = scored(run)["cells"]["ddim@w3"]
    assert by_statistics["fid"] == pytest.approx(by_features["fid"], rel=1e-6)
    assert by_statistics["kid"] is by_statistics["fid_floor"] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder or file"),
        (lambda p: p.mkdir(), "0 images"),
        (lambda p: p.write_bytes(b"text"), "not a readable .npz"),
        (lambda p: np.savez(p.open("wb"), other=np.zeros(3)), "it needs 'features'"),
        (lambda p: np.savez(p.open("wb"), mu=np.zeros(3), sigma=np.eye(2)), "do not fit"),
        (lambda p: np.savez(p.open("wb"), features=np.eye(9)), "feature dimensions"),
    ],
)
def test_unusable_references_give_one_line(tmp_path, run, make, message):
    path = tmp_path / "given"
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        score.score(run, reference=str(path), bootstrap=20)
    assert "\n" not in str(caught.value)


def test_other_errors_are_one_line(tmp_path, run):
    with pytest.raises(ValueError, match=r"no config\.json"):
        score.score(tmp_path / "nothing")
    with pytest.raises(ValueError, match="--bootstrap"):
        score.score(run, bootstrap=0)
    with pytest.raises(ValueError, match="QuickGELU"):
        features.OpenClip("ViT-B-32/openai")
    with pytest.raises(ValueError, match=r"no open_clip_config\.json"):
        features.OpenClip(f"local-dir:{tmp_path / 'none'}")


def test_the_checker_is_asked_with_the_caption(tmp_path):
    class Checker:
        identity = "fake"

        def verdicts(self, pixels, prompts):
            return np.array([[p == prompts[0], 1] for p in prompts], np.float32)

    run = make_run(tmp_path / "run", arms=("ddim",), omegas=(3.0,))
    config = json.loads((run / "config.json").read_text())
    extractor = Extractor(MeanColours(), checker=Checker())
    text = extractor.scorer.texts(config["prompts"])
    found = features.extract(
        run, "ddim@w3", config["prompts"], config["seeds"], (64, 64), [], extractor, text
    )
    assert found.checks.mean(0) == pytest.approx([0.25, 1.0])
