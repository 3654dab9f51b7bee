"""The NFE curve: complete sub-runs with the run's settings, resumed, and honest about gaps."""

from __future__ import annotations

import csv
import json

import pytest
from eval_double import Double, draw, place, request
from PIL import Image
from synthetic_run import extractor, make_reference

from eval import curve as curves
from eval import judge, reference, score
from eval.__main__ import main
from eval.folder import read_json, write_json
from eval.report import report


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A drawn run of two samplers at ω = 3 and 7.5; scoring needs no network."""
    for module in (score, judge):
        monkeypatch.setattr(module, "extractor_for", lambda *_: (extractor(), {}))
    make_reference(tmp_path / "reference.npz")
    make_reference(tmp_path / "other.npz", 300)
    draw(request(place(tmp_path), arms="ddim,dpm++_2s_a"))
    return tmp_path / "run"


def curve(run, *nfes, double=None, **options):
    double = double or Double()
    options = {"model": str(run.parent / "tiny"), "device": "cpu", "bootstrap": 20} | options
    options = {"reference": str(run.parent / "reference.npz")} | options
    load = lambda *_: double  # noqa: E731
    return curves.curve(run, nfes, load=load, **options)


def test_every_point_is_a_run_with_the_settings_of_its_parent(run):
    found = curve(run, 2, 4)
    parent = read_json(run / "config.json")
    for nfe in (2, 4):
        own = read_json(run / "curve" / f"nfe{nfe:02d}" / "config.json")
        same = ("model", "sha256", "dtype", "size", "prompts", "seeds", "batch", "grid")
        assert {k: own[k] for k in same} == {k: parent[k] for k in same}
        assert own["nfe"] == nfe == len(own["arms"][0]["plan"]["rows"])
    assert found["omega"] == 7.5  # the middle one of 3 and 7.5, the upper of two
    assert [(p["nfe"], p["arm"]) for p in found["points"]] == [
        (2, "ddim"), (2, "dpm++_2s_a"), (4, "ddim"), (4, "dpm++_2s_a"),
    ]  # fmt: skip
    assert {p["n"] for p in found["points"]} == {9} and found["skipped"] == []
    # at the run's own NFE the pictures are the run's own: the same noise, the same plan
    for name in ("000_0.png", "002_5.png"):
        pixels = [
            Image.open(folder / "images" / "ddim@w7.5" / name).tobytes()
            for folder in (run, run / "curve" / "nfe04")
        ]
        assert pixels[0] == pixels[1]


def test_files_hold_the_points(run):
    found = curve(run, 2, seeds=[0], arms="ddim")
    assert curves.read_curve(run) == json.loads(json.dumps(found))
    rows = list(csv.DictReader((run / "curve.csv").open()))
    assert [(row["nfe"], row["arm"], row["n"]) for row in rows] == [("2", "ddim", "3")]
    assert float(rows[0]["fid"]) == found["points"][0]["fid"]
    text = curves.text(found)
    assert text.startswith(
        "stand-in tiny: not SD numbers; ω = 7.5. CLIP: mean colours; "
        "FID reference: 400 features of reference.npz\n"
    )
    assert "| ddim | 2 |" in text
    assert curves.shell_command(found, "runs/x") == (
        "python -m eval curve runs/x --nfes 2 --omega 7.5 --arms ddim --seeds 0 "
        "--reference PATH/TO/reference.npz"
    )


def test_more_nfes_join_and_nothing_is_drawn_twice(run):
    curve(run, 2)
    double = Double()
    found = curve(run, 2, 3, double=double)
    assert found["nfes"] == [2, 3]
    assert double.evaluations == 3 * 3 * 2  # three batches of each arm, at NFE 3 alone


def test_the_points_of_a_compiled_run_are_compiled(run):
    config = read_json(run / "config.json")
    double = Double()
    curve(run, 2, double=double)
    assert double.compiled == 0
    (run / "config.json").write_text(json.dumps(config | {"compiled": True}))
    with pytest.raises(ValueError, match="compiled"):  # not joined to points that are not
        curve(run, 2)
    curve(run, 3, double=double)
    assert double.compiled == 1
    assert read_json(run / "curve" / "nfe03" / "config.json")["compiled"] is True


def test_an_arm_that_cannot_spend_an_nfe_is_named(run, monkeypatch):
    whole = curves.drawer

    def even(arm, sd, nfe, grid):
        if arm.sampler == "dpm++_2s_a" and nfe % 2:
            raise ValueError("an odd number")
        return whole(arm, sd, nfe, grid)

    monkeypatch.setattr(curves, "drawer", even)
    found = curve(run, 3, 4)
    assert found["skipped"] == [{"arm": "dpm++_2s_a", "nfe": 3, "reason": "an odd number"}]
    assert [p["arm"] for p in found["points"] if p["nfe"] == 3] == ["ddim"]
    assert "left out: dpm++_2s_a at NFE 3: an odd number" in curves.text(found)
    assert curve(run, 4)["skipped"] == found["skipped"]  # what is not asked for again stays


def test_other_settings_are_refused(run):
    curve(run, 2)
    with pytest.raises(ValueError, match=r"other settings \(omega: 7\.5, now 3\); delete that"):
        curve(run, 2, omega=3)
    with pytest.raises(ValueError, match="samplers without @"):
        curve(run, 2, arms="ddim@5")
    (run.parent / "tiny" / "unet" / "config.json").write_text('{"other": 1}')
    with pytest.raises(ValueError, match=r"not the one of the run .*give that one as --model"):
        curve(run, 4)


def test_one_curve_has_one_reference(run):
    curve(run, 2)
    other, double = str(run.parent / "other.npz"), Double()
    with pytest.raises(
        ValueError,
        match=r"^NFE 2 of .*curve was scored otherwise \(reference '400 features of "
        r"reference\.npz', now '300 features of other\.npz'\); give .*--nfes to score it again",
    ):
        curve(run, 3, reference=other, double=double)
    assert double.evaluations == 0 and not (run / "curve" / "nfe03").exists()
    found = curve(run, 2, 3, reference=other)
    assert found["nfes"] == [2, 3] and found["reference"] == "300 features of other.npz"
    assert curve(run, 2, reference=other)["nfes"] == [2, 3]


def test_a_curve_is_scored_as_its_run(run):
    mine, other = (str(run.parent / name) for name in ("reference.npz", "other.npz"))
    score.score(run, reference=other, bootstrap=20)
    with pytest.raises(
        ValueError, match=r"run was scored otherwise \(reference '300 .*give --scorer and --refer"
    ):
        curve(run, 2, reference=mine)
    assert not (run / "curve").exists()
    curve(run, 2, reference=other)
    report(run)
    score.score(run, reference=mine, bootstrap=20)
    with pytest.raises(ValueError, match=r"curve was scored .* the run .*curve \S+run --nfes 2'"):
        report(run)
    curve(run, 2, reference=mine)
    report(run)


def test_another_scorer_of_the_same_name_is_another(run, monkeypatch):
    curve(run, 2)
    retrained = extractor()
    retrained.scorer.identity = "mean-colours-2"
    for module in (score, judge):
        monkeypatch.setattr(module, "extractor_for", lambda *_: (retrained, {}))
    with pytest.raises(ValueError, match=r"scorer_identity 'mean-colours-1', now 'mean-colours-2'"):
        curve(run, 3)


def test_a_reference_that_cannot_be_used_is_told_before_anything_is_drawn(run, monkeypatch):
    monkeypatch.setattr(judge, "extractor_for", lambda *_: (extractor(), {"fid": "no weights"}))
    with pytest.raises(ValueError, match="--reference is given, and FID cannot be had: no weights"):
        curve(run, 2)
    assert not (run / "curve").exists()


def test_a_curve_takes_the_renders_that_its_run_was_compared_with(run, monkeypatch, tmp_path):
    whole = reference.rendered

    def few(extractor, kind, cache):
        return whole(extractor, kind, count=20, cache=tmp_path / "cache")

    monkeypatch.setattr(reference, "rendered", few)
    for kind in (reference.CAPTIONS, reference.DOMAIN):
        results = score.score(run, reference=kind, bootstrap=20)
        assert judge.rendered_kind(results) == kind
        found = curve(run, 2, reference=None)
        assert found["reference"] == results["fid"]["reference"]
        assert curves.shell_command(found, "runs/x").endswith(f" --reference {kind}")
    score.score(run, reference=str(run.parent / "other.npz"), bootstrap=20)
    with pytest.raises(ValueError, match="was scored otherwise"):
        curve(run, 2, reference=None)


@pytest.mark.parametrize("wrong", [{"omega": float("nan")}, {"arms": "ddim[eta=abc]"}])
def test_a_curve_that_could_not_begin_settles_nothing(run, wrong):
    with pytest.raises(ValueError, match=r"nan|eta"):
        curve(run, 2, **wrong)
    assert [p["arm"] for p in curve(run, 2)["points"]] == ["ddim", "dpm++_2s_a"]


def test_a_run_that_was_not_scored_has_a_curve_and_no_report(run, monkeypatch, capsys):
    found = curve(run, 2)
    monkeypatch.setattr(curves, "curve", lambda *_, **__: found)
    assert main(["curve", str(run), "--nfes", "2"]) == 0
    told = capsys.readouterr()
    assert "no report: score the run itself first" in told.err and "| ddim | 2 |" in told.out


def test_scores_that_lack_an_arm_are_told_before_anything_is_drawn(run):
    write_json(run / "results.json", {"front": {}, "verdict": {}, "cells": {}})
    with pytest.raises(ValueError, match="was drawn after the last scoring"):
        curve(run, 2)
    assert not (run / "curve").exists()


def test_one_process_draws_it(run, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="drawn by one process"):
        curve(run, 2)


@pytest.mark.parametrize("text", ["", "5,,8", "0", "5-8", "-1"])
def test_unreadable_nfes(text):
    with pytest.raises(ValueError, match="give whole numbers of at least 1"):
        curves.parse_nfes(text)
    assert curves.parse_nfes("5, 8") == [5, 8]


def test_a_folder_is_not_looked_for_under_the_name_that_it_shares_with_a_model(run):
    """Its path is not kept; "sd15" would be downloaded, and then be another model."""
    config = json.loads((run / "config.json").read_text())
    real = {"model": "sd15", "standin": False, "sha256": "0" * 64}
    (run / "config.json").write_text(json.dumps(config | real))
    with pytest.raises(ValueError, match="a folder called 'sd15'; say where it is with --model"):
        curve(run, 3, model=None)
