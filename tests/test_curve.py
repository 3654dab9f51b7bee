"""The NFE curve: complete sub-runs with the run's settings, resumed, and honest about gaps."""

from __future__ import annotations

import csv
import json

import pytest
from eval_double import Double, draw, place, request
from PIL import Image
from synthetic_run import extractor, make_reference

from eval import curve as curves
from eval import score
from eval.__main__ import main
from eval.folder import read_json, write_json


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A drawn run of two samplers at ω = 3 and 7.5; scoring needs no network."""
    monkeypatch.setattr(score, "extractor_for", lambda *_: (extractor(), {}))
    make_reference(tmp_path / "reference.npz")
    draw(request(place(tmp_path), arms="ddim,dpm++_2s_a"))
    return tmp_path / "run"


def curve(run, *nfes, double=None, **options):
    double = double or Double()
    options = {"model": str(run.parent / "tiny"), "device": "cpu", "bootstrap": 20} | options
    reference = str(run.parent / "reference.npz")
    load = lambda *_: double  # noqa: E731
    return curves.curve(run, nfes, reference=reference, load=load, **options)


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
    assert text.startswith("stand-in tiny: not SD numbers; ω = 7.5") and "| ddim | 2 |" in text
    assert curves.shell_command(found, "runs/x") == (
        "python -m eval curve runs/x --nfes 2 --omega 7.5 --arms ddim --seeds 0"
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
