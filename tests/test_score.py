"""Scoring a run folder: caches, bad images, determinism, references, missing parts."""

import csv
import json

import numpy as np
import pytest
import synthetic_run
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from synthetic_run import MeanColours, make_reference, make_run

from eval import extractor, features, reference, score
from eval.claim import claim, read
from eval.extractor import Extractor
from eval.pick import best_baseline, load_scored
from eval.summary import summary
from samplers import available


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


def scored(run, bootstrap=50):
    return score.score(run, reference=str(run.parent / "reference.npz"), bootstrap=bootstrap)


def test_table_and_files(run, capsys):
    results = scored(run)
    out = capsys.readouterr().out
    assert out.startswith("stand-in standin-sd15: not SD numbers\n")
    assert "Table: stand-in standin-sd15: not SD numbers" in out
    assert "FID at matched CLIP: averaged over the front, exp2m_cfg++" in out and "0.100" in out
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


MANY = [
    f"a {colour} circle"
    for colour in ["red", "green", "blue", "white", "black", "pink", "cyan", "tan"]
]


def test_the_comparison_is_paired_and_signed(tmp_path, run):
    results = scored(make_run(tmp_path / "many", prompts=MANY), 400)
    assert not any("too few for a verdict" in note for note in results["notes"])
    row = next(r for r in results["paired"] if (r["baseline"], r["omega"]) == ("ddim", 3.0))
    cells = results["cells"]
    for name in ("clip", "fid"):
        gap = cells["exp2m_cfg++@w3"][name] - cells["ddim@w3"][name]
        assert row[name]["difference"] == pytest.approx(gap)
    assert row["clip"]["verdict"] == "better"
    few = scored(run, 400)  # 4 prompts, and Holm's factor 2: p is at least 1/4
    words = {found["verdict"] for at in few["front"].values() for found in at.values()}
    assert words == {"not distinguishable"}
    assert any("4 prompts are too few for a verdict on 2 arms" in note for note in few["notes"])


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


def test_what_the_intervals_of_a_run_do_not_cover_is_said(run):
    notes = " ".join(scored(run)["notes"])
    assert f"{len(synthetic_run.PROMPTS)} prompts are few" in notes


def test_a_front_of_one_piece_is_said_and_what_to_add(run, tmp_path):
    """Over these strengths CLIP rises without end, but for exp2m_cfg++, which turns at ω = 7.5."""
    assert "one straight piece" not in " ".join(scored(run)["notes"])
    wide = " ".join(scored(make_run(tmp_path / "wide", omegas=(3.0, 7.5, 12.0)))["notes"])
    assert "fronts of one straight piece: exp2m_cfg++ (ω 3 to 7.5). An arm" in wide
    assert wide.count("add --scales 4.7") == 1


def test_the_front_of_an_approximated_arm_is_not_told_to_grow(tmp_path, scorer):
    """It is compared at equal scale only, so a straight front of it costs no verdict."""
    make_reference(tmp_path / "reference.npz")
    arms, omegas = ("ddim", "exp2m_cfg++~cache"), (3.0, 7.5, 12.0)
    results = scored(make_run(tmp_path / "run", arms, omegas))
    assert "one straight piece" not in " ".join(results["notes"])
    assert "exp2m_cfg++~cache is approximated" in " ".join(results["notes"])


def test_few_resamples_cannot_give_a_verdict(tmp_path, run):
    """The smallest p of 50 resamples is 2/51; Holm doubles it."""
    many = scored(make_run(tmp_path / "many", prompts=MANY))
    assert any("50 resamples are too few" in note for note in many["notes"])


def test_without_fid_nothing_is_out_of_range_and_clip_is_still_told(run, monkeypatch, tmp_path):
    def without(*_):
        return Extractor(MeanColours(), fid_from_scorer=False), {"fid": "not here"}

    monkeypatch.setattr(score, "extractor_for", without)
    results = score.score(run, bootstrap=50)
    words = {found["verdict"] for at in results["front"].values() for found in at.values()}
    assert words == {"no FID"}
    assert "no FID for 2" in claim(read([run]))
    assert claim(read([run])).endswith(
        "Without a reference for FID there are no fronts to compare."
    )
    rows = [line for line in summary(results).splitlines() if line.startswith(("| `", "| **"))]
    assert len(rows) == 3 and all("| – |" in row and " ± " in row for row in rows)


def test_arms_that_were_drawn_after_the_scoring_are_named(run):
    scored(run)
    config = json.loads((run / "config.json").read_text())
    config["arms"].append({**config["arms"][0], "key": "euler@w3", "arm": "euler"})
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"euler@w3 was drawn after the last scoring; run"):
        load_scored(run, config)


def test_a_reference_that_cannot_be_kept_is_used(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("Read-only file system")

    monkeypatch.setattr(reference, "save_npz", refuse)
    found = reference.rendered(Extractor(MeanColours()), count=8, cache=tmp_path)
    assert found.statistics.n == 8
    assert "not kept for next time: Read-only file system" in capsys.readouterr().err


def test_further_measures(run):
    results = scored(run)
    cell = results["cells"]["ddim@w3"]
    assert 0 < cell["saturation"] < 1 and 0 < cell["contrast"] < 0.5
    assert 0 <= cell["precision"] <= 1 and 0 <= cell["recall"] <= 1
    assert cell["clip2"] is cell["latent_std"] is results["second_scorer"] is None
    low, high = cell["clip_interval"]
    assert low < cell["clip"] < high and cell["fid_interval"][0] < cell["fid"]


def test_the_latents_spread_is_read_from_the_pictures(run):
    for path in (run / "images" / "ddim@w3").iterdir():
        chunks = PngInfo()
        chunks.add_text("latent_std", "0.5" if path.name.startswith("000") else "0.9")
        Image.open(path).save(path, pnginfo=chunks)
    results = scored(run)
    assert results["cells"]["ddim@w3"]["latent_std"] == pytest.approx(0.8)
    assert results["cells"]["ddim@w5"]["latent_std"] is None


def test_a_second_scorer_is_compared_too(run, monkeypatch):
    class Upside(MeanColours):
        name, identity = "upside", "upside-1"

        def images(self, pixels):
            return -super().images(pixels)

        def texts(self, prompts):
            return super().images(np.stack([synthetic_run.draw(p, "ddim", 5, 0) for p in prompts]))

    both = Extractor(MeanColours(), second=Upside())
    monkeypatch.setattr(score, "extractor_for", lambda *_: (both, {}))
    results = scored(run)
    assert results["second_scorer"] == "upside"
    assert -100 <= results["cells"]["ddim@w3"]["clip2"] < 0
    assert {"difference", "verdict"} <= results["paired"][0]["clip2"].keys()


def test_a_missing_second_scorer_is_a_note(monkeypatch):
    def load(spec, device):
        if "laion" in spec:
            raise ValueError("not on this machine")
        return MeanColours()

    monkeypatch.setattr(extractor, "OpenClip", load)
    found, problems = extractor.extractor_for(None, standin=False, fid=False)
    assert found.second is None and problems == {"second scorer": "not on this machine"}


def test_the_default_scale_meets_each_baselines_best(tmp_path, scorer):
    make_reference(tmp_path / "reference.npz")
    run = make_run(tmp_path / "run", omegas=(0.3, 0.6, 3.0))
    found = scored(run)["default_scale"]
    cells = json.loads((run / "results.json").read_text())["cells"]
    own = next(r for r in available() if r.name == "exp2m_cfg++").scale
    assert found["default"] == own and found["scale"] == 0.6
    row = next(r for r in found["rows"] if (r["baseline"], r["best"]) == ("ddim", "fid"))
    best = min((c for c in cells.values() if c["arm"] == "ddim"), key=lambda c: c["fid"])
    gap = cells["exp2m_cfg++@w0.6"]["fid"] - best["fid"]
    assert row["omega"] == best["omega"] and row["fid"]["difference"] == pytest.approx(gap)
    assert scored(make_run(tmp_path / "far", omegas=(3.0, 5.0)))["default_scale"] is None


def test_an_approximated_arm_is_compared_at_equal_scale_alone(tmp_path, scorer):
    """It spends less than the run's NFE: beating it is no part of the claim, losing shows."""
    make_reference(tmp_path / "reference.npz")
    near = "exp2m_cfg++~cache[depth=1,keys=uniform:2]"
    run = make_run(tmp_path / "run", arms=("ddim", "exp2m_cfg++", near))
    results = scored(run)
    assert results["focus"] == "exp2m_cfg++" and best_baseline(results) == "ddim"
    assert list(results["front"]["clip"]) == list(results["verdict"]["fid"]) == ["ddim"]
    assert {row["baseline"] for row in results["paired"]} == {"ddim", near}
    assert f"{near} is approximated, no result at this NFE" in " ".join(results["notes"])


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


def test_other_errors_are_one_line(tmp_path, run):
    with pytest.raises(ValueError, match=r"no config\.json"):
        score.score(tmp_path / "nothing")
    with pytest.raises(ValueError, match="--bootstrap"):
        score.score(run, bootstrap=0)
    with pytest.raises(ValueError, match="QuickGELU"):
        extractor.OpenClip("ViT-B-32/openai")
    with pytest.raises(ValueError, match=r"no open_clip_config\.json"):
        extractor.OpenClip(f"local-dir:{tmp_path / 'none'}")


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
