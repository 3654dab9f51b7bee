"""The claim is read from results.json, and says losses as loudly as wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.claim import beaten_at_once, claim, overview, read, sentence
from eval.claim_figure import BETTER, NEITHER, WORSE, figure
from eval.summary import side_by_side

ROOT = Path(__file__).resolve().parents[1]


def cell(arm: str, omega: float, fid: float | None, clip: float, valid: bool = True) -> dict:
    return {"arm": arm, "omega": omega, "fid": fid, "clip": clip, "valid": valid}


def results(model: str, **words: str) -> dict:
    def front(sign: float) -> dict:
        return {
            arm: {"verdict": word, "difference": sign * 0.5, "interval": [sign * 0.5 - 1, 1.0]}
            for arm, word in words.items()
        }

    return {
        "model": model,
        "stamp": f"stand-in {model}: not SD numbers",
        "focus": "ours",
        "nfe": 20,
        "noise": "prompt and seed",
        "prompt_count": 7,
        "seeds": [0, 1],
        "front": {"clip": front(-1), "fid": front(1)},
        "cells": {"ours@w1": cell("ours", 1, 0.5, 80)},
    }


def test_a_sentence_counts_every_verdict():
    said = sentence(results("m", a="better", b="better", c="worse", d="not distinguishable"))
    assert said == (
        "stand-in m: not SD numbers. `ours` at NFE 20 against 4 arms (7 prompts × 2 seeds): FID at "
        "equal CLIP: better for 2, not distinguishable for 1, worse for 1; CLIP at equal FID: "
        "better for 2, not distinguishable for 1, worse for 1. At no one strength has it both a "
        "lower FID than the lowest and a higher CLIP than the highest of an arm."
    )


def test_one_strength_is_held_to_both_bests_of_an_arm():
    """The bests of an arm are at two strengths; what is invalid or approximated is not beaten."""
    cells = [
        *(cell("ours", 1, 0.5, 80), cell("ours", 2, 0.6, 85), cell("ours", 4, 0.9, 86)),
        *(cell("both", 1, 0.7, 80), cell("both", 4, 1.2, 84)),
        *(cell("its_fid", 1, 0.55, 80), cell("its_fid", 4, 1.2, 84)),
        *(cell("its_clip", 1, 0.7, 80), cell("its_clip", 4, 1.2, 85.5)),
        *(cell("damaged", 1, 0.7, 80), cell("damaged", 4, 1.2, 99, valid=False)),
        *(cell("unmeasured", 1, None, 80), cell("approximated", 1, 0.7, 80)),
    ]
    compared = dict.fromkeys(("both", "its_fid", "its_clip", "damaged", "unmeasured"), "better")
    run = results("m", **compared) | {"cells": {str(i): c for i, c in enumerate(cells)}}
    assert beaten_at_once(run) == (2, ["both"])
    assert sentence(run).endswith(
        "At ω = 2 it has, as measured, both a lower FID than the lowest and a higher CLIP than the "
        "highest of 1: both."
    )
    cells[1]["clip"] = 83
    assert beaten_at_once(run) == (None, [])


def test_the_table_has_every_arm_of_every_model():
    text = claim({"m": results("m", a="better"), "n": results("n", a="worse", b="better")})
    (a,) = [line for line in text.splitlines() if line.startswith("| `a`")]
    (b,) = [line for line in text.splitlines() if line.startswith("| `b`")]
    assert "-0.50 [-1.50, +1.00] better" in a and "worse" in a
    assert b.count("–") == 2


def test_the_overview_counts_what_holm_and_what_the_interval_alone_says():
    def front(sign: float) -> dict:
        def found(verdict: str, *interval: float) -> dict:
            ends = sorted(sign * end for end in interval)
            return {"verdict": verdict, "difference": sum(ends) / 2, "interval": ends}

        return {
            "wins": found("better", 0.2, 0.4),
            "leans": found("not distinguishable", 0.1, 0.3),
            "level": found("not distinguishable", -0.1, 0.3),
            "leans_away": found("not distinguishable", -0.3, -0.1),
            "loses": found("worse", -0.4, -0.2),
            "absent": {"verdict": "out of range"},
        }

    late = results("m") | {"front": {"clip": front(-1), "fid": front(1)}}
    early = results("m", dpm3m_sde="better") | {"nfe": 10, "prompt_count": 1000}
    *_, first, second = overview({"m, NFE 20": late, "m, NFE 10": early}).splitlines()
    assert first.startswith("| m, NFE 10 | 1,000 | 1 | 1 + 0 / 0 + 0 | 1 + 0 / 0 + 0 | -0.50 [")
    assert second == "| m, NFE 20 | 7 | 6 | 1 + 1 / 1 + 1 | 1 + 1 / 1 + 1 | – | – |"
    assert overview({"m, NFE 20": late}).splitlines()[-1] == second.removesuffix(" – | – |")


def test_runs_of_different_focus_arms_say_whose_difference_is_shown():
    def run(focus: str, *others: str) -> dict:
        cells = {arm: cell(arm, 1, 1.5, 80) for arm in (focus, *others)}
        words = {at: dict.fromkeys(others, "better") for at in ("clip", "fid")}
        found = results("m", **words["clip"])
        return found | {"focus": focus, "cells": cells, "verdict": words}

    runs = {"one": run("ours", "a"), "two": run("few", "ours", "a", "b") | {"nfe": 7}}
    head, _, *rows = side_by_side(runs).splitlines()
    assert "| `ours` against it |" in head and head.endswith("| `few` against it |")
    assert rows == [
        "| **`ours`** | 1.50 | 80.00 | – | 1.50 | 80.00 | better / better |",
        "| `a` | 1.50 | 80.00 | better / better | 1.50 | 80.00 | better / better |",
        "| **`few`** | – | – | – | 1.50 | 80.00 | – |",
        "| `b` | – | – | – | 1.50 | 80.00 | better / better |",
    ]
    head, *_ = claim(runs).splitlines()
    assert head == (
        "| against | one, `ours`: ΔFID at equal CLIP | one, `ours`: ΔCLIP at equal FID "
        "| two, `few`: ΔFID at equal CLIP | two, `few`: ΔCLIP at equal FID |"
    )
    first, second = overview(runs).splitlines()[2:]
    assert first.startswith("| two, `few` | 7 | 3 |") and second.startswith("| one, `ours` | 7 |")
    titles = [ax.get_title() for ax in figure(runs).axes if ax.get_title()]
    assert titles == ["one, ours", "two, few"]
    alike = {"one": runs["one"], "two": run("ours", "b")}
    assert "| against | one: ΔFID" in claim(alike) and "\n| one | 7 | 1 |" in overview(alike)


def test_reading_from_folders_and_refusing_in_one_line(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(results("m", a="better")))
    assert list(read([tmp_path])) == ["m, NFE 20"]
    with pytest.raises(ValueError, match="second run of m, NFE 20"):
        read([tmp_path, tmp_path / "results.json"])
    assert main(["claim", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["m, NFE 20"]
    assert found["focus"] and found["fid_at_equal_clip"]["a"]["verdict"] == "better"
    committed = ROOT / "docs" / "results" / "weak-sd15"
    assert main(["claim", str(committed), "--bests"]) == 0
    table = capsys.readouterr().out.strip()
    assert "highest CLIP" in table and table in (committed / "README.md").read_text()
    file = tmp_path / "results.json"
    assert main(["claim", str(tmp_path), "--figure", str(file / "claim.png")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"error: {file}: file exists; give a place that can be read and written"]
    old = tmp_path / "old.json"
    old.write_text('{"model": "m"}')
    assert main(["claim", str(old)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="m, NFE 20: one arm alone; there is nothing to compare"):
        claim({"m, NFE 20": results("m")})
    with pytest.raises(ValueError, match="is not there"):
        read([tmp_path / "none"])


def test_the_figure_shows_every_verdict_where_it_belongs(tmp_path, capsys):
    """Colour by the side of 0 that all of the interval is on, filled for a verdict."""
    differences = {"wins": -0.5, "leans": -0.4, "level": -0.1, "loses": 0.6}
    words = {"wins": "better", "loses": "worse"}

    def front(sign: float) -> dict:
        return {
            arm: {
                "verdict": words.get(arm, "not distinguishable"),
                "difference": sign * d,
                "interval": sorted((sign * (d - 0.2), sign * (d + 0.2))),
            }
            for arm, d in differences.items()
        }

    run = results("m") | {"front": {"clip": front(1), "fid": front(-1)}}
    run["front"]["clip"]["absent"] = run["front"]["fid"]["absent"] = {"verdict": "out of range"}
    for ax in figure({"m": run}).axes:
        drawn = {int(one.get_ydata()[0]): one for one in ax.lines if one.get_marker() == "o"}
        assert [t.get_text() for t in ax.get_yticklabels()] == [*differences, "absent"]
        looks = [(drawn[i].get_color(), drawn[i].get_mfc()) for i in range(4)]
        assert looks == [
            (BETTER, BETTER), (BETTER, "white"), (NEITHER, "white"), (WORSE, WORSE)
        ]  # fmt: skip
        assert 4 not in drawn
    (tmp_path / "results.json").write_text(json.dumps(run))
    assert main(["claim", str(tmp_path), "--figure", str(tmp_path / "a.png")]) == 0
    assert "figure: " in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
