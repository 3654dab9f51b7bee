"""Tables for papers: the best is bold, the second underlined, stand-ins are stamped."""

from __future__ import annotations

import csv
import io
import json

import pytest

from eval.__main__ import main
from eval.latex import table


def cell(arm, omega, fid, clip, right=None, valid=True):
    return {
        "arm": arm, "omega": omega, "scale": omega, "n": 9, "valid": valid, "fid": fid,
        "fid_interval": [fid - 1, fid + 0.5], "clip": clip, "clip_half_interval": 0.25,
        "all_right": right,
    }  # fmt: skip


def write(folder, model, cells, scorer="some_clip", reference="9 renders"):
    folder.mkdir()
    arms = [{"key": f"{c['arm']}@w{c['omega']:g}", "arm": c["arm"]} for c in cells]
    results = {
        "stamp": f"stand-in {model}: not SD numbers", "model": model, "nfe": 20, "seeds": [0, 1],
        "prompt_count": 3, "scorer": scorer,
        "fid": {"features": reference and "100% features", "reference": reference},
        "front": {}, "verdict": {},
        "cells": {a["key"]: c for a, c in zip(arms, cells, strict=True)},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results, sort_keys=True))
    (folder / "config.json").write_text(json.dumps({"arms": arms}))
    return folder


@pytest.fixture
def runs(tmp_path):
    first = [cell("z_cfg++", 1, 5.0, 20.0, 0.5), cell("z_cfg++", 3, 4.0, 30.0, 0.25)]
    first += [cell("b", 1, 3.0, 30.0, 0.5), cell("b", 3, 3.5, 31.0, 0.75)]
    first += [cell("c", 1, 1.0, 90.0, 1.0, valid=False)]
    second = [cell("b", 1, 3.004, 10.0), cell("d", 1, 3.001, 12.0)]
    return [write(tmp_path / "one", "m_1", first), write(tmp_path / "two", "m_2", second)]


def test_latex(runs):
    text = table(runs, "latex")
    rows = {line.split(" & ")[0].strip(): line for line in text.splitlines() if " & " in line}
    assert text.count("{") == text.count("}") and "\\begin{tabular}{lrrrrr}" in text
    assert "Stand-in m\\_1: not SD numbers; stand-in m\\_2: not SD numbers." in text
    assert "100\\% features" in text and "some\\_clip" in text
    assert "\\multicolumn{3}{c}{m\\_1} & \\multicolumn{2}{c}{m\\_2}" in text
    assert "\\cmidrule(lr){2-4} \\cmidrule(lr){5-6}" in text
    assert list(rows)[2:] == ["z\\_cfg++", "b", "c $\\dagger$", "d"]  # in the order of the runs
    # each arm at its lowest FID; the invalid arm's 1.00 and 90.00 are not ranked
    assert "& \\underline{4.00} {\\scriptsize $\\pm$ 0.75} & 30.00 {" in rows["z\\_cfg++"]
    assert "& \\textbf{3.00} {\\scriptsize $\\pm$ 0.75} & 30.00 {" in rows["b"]  # CLIP: all equal
    assert "& 1.00 {" in rows["c $\\dagger$"] and rows["d"].count("--") == 3
    # 3.004 and 3.001 are equal as shown: no one is best
    assert "& 3.00 {" in rows["d"] and "\\textbf{12.00}" in rows["d"]


def test_numbers_stand_under_their_own_run_where_a_model_comes_twice(tmp_path):
    runs = [
        write(tmp_path / name, model, [cell("a", 1, fid, 20.0), cell("b", 1, fid + 1, 21.0)])
        for name, model, fid in (("x", "m", 1.0), ("y", "n", 3.0), ("z", "m", 5.0))
    ]
    path = tmp_path / "z" / "results.json"
    path.write_text(path.read_text().replace('"nfe": 20', '"nfe": 6'))
    text = table(runs, "latex")
    named = ["m, NFE 20", "n, NFE 20", "m, NFE 6"]
    assert " & ".join(f"\\multicolumn{{2}}{{c}}{{{name}}}" for name in named) in text
    header, _, row, *_ = table(runs, "markdown").splitlines()
    assert [part.split(":")[0].strip() for part in header.split("|")[2:-1:2]] == named
    fids = [part.split()[0].strip("*") for part in row.split("|")[2:-1:2]]
    assert fids == ["1.00", "3.00", "5.00"]


def test_an_arm_with_a_damaged_cell_is_not_ranked_at_any_strength(tmp_path):
    cells = [cell("a", 1, 1.0, 30.0), cell("a", 3, 2.0, 31.0, valid=False)]
    cells += [cell("b", 1, 3.0, 20.0), cell("c", 1, 4.0, 19.0)]
    text = table([write(tmp_path / "run", "m", cells)], "markdown")
    assert "| `a †` | 1.00 ±" in text and "| `b` | **3.00** ±" in text


def test_markdown_and_all_strengths(runs):
    text = table(runs[:1], "markdown", at="all")
    assert "| sampler | FID ↓ | CLIP ↑ | right, % ↑ |" in text
    assert "| `b, ω = 3` | <u>3.50</u> ± 0.75 | **31.00** ± 0.25 | **75.0** |" in text
    assert "| `b, ω = 1` | **3.00** ± 0.75 | <u>30.00</u> ± 0.25 |" in text
    assert text.count("| `") == 5 and "equal ω is not equal guidance" in text


def test_the_caption_says_by_what_every_run_was_measured(tmp_path):
    cells = [cell("a", 1, 5.0, 20.0), cell("b", 1, 4.0, 21.0)]
    runs = {
        name: write(tmp_path / name, name, cells, **how)
        for name, how in {
            "m": {},
            "n": {},
            "o": {"reference": "other photos"},
            "p": {"scorer": "another", "reference": None},
        }.items()
    }
    same = "CLIP: some_clip, cosine × 100. FID: 100% features; reference: 9 renders."
    text = table([runs["m"], runs["n"]], "markdown")
    assert f"over prompts. {same}\n" in text and "In m" not in text
    text = table(list(runs.values()), "markdown")
    assert (
        f"over prompts. In m; n: {same} In o: {same.replace('9 renders', 'other photos')}" in text
    )
    assert text.endswith("In p: CLIP: another, cosine × 100. FID: none.\n")
    assert "In o: CLIP: some\\_clip" in table(list(runs.values()), "latex")


def test_approximated_arms_are_said_not_to_be_results_at_this_nfe(tmp_path):
    near = cell("a~cache[depth=1,keys=uniform:2]", 1, 5.0, 20.0)
    for folder, cells, said in (("near", [near], True), ("exact", [cell("a", 1, 5, 20)], False)):
        text = table([write(tmp_path / folder, "m", cells)], "markdown")
        assert ("no result at this NFE" in text) is said


def test_csv_keeps_full_numbers(runs):
    rows = list(csv.DictReader(io.StringIO(table(runs, "csv", at="1"))))
    assert [(r["run"], r["arm"]) for r in rows] == [
        ("one", "z_cfg++"), ("one", "b"), ("one", "c"), ("two", "b"), ("two", "d"),
    ]  # fmt: skip
    assert (rows[3]["fid"], rows[3]["fid_low"], rows[3]["clip_high"]) == ("3.004", "2.004", "10.25")
    assert {r["stamp"] for r in rows} == {f"stand-in m_{i}: not SD numbers" for i in (1, 2)}


def test_problems_are_one_line(runs, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path)], "no config.json there"),
        ([str(runs[0]), "--at", "9"], "no arm has this strength"),
        ([str(runs[0]), "--at", "often"], "give best, all or a strength"),
    ):
        assert main(["table", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
