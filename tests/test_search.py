"""The space of candidates, the search and the fit."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import exp, expm1, inf, log

import numpy as np
import pytest
from eval_double import Double, place
from hypothesis import given, settings
from hypothesis import strategies as st
from search_double import Bowl, Closed, Killed, evolution
from synthetic_run import extractor, make_reference

from eval.__main__ import main
from eval.models import ROOT
from eval.search import program, space, teacher
from eval.search.journal import Journal
from eval.search.objectives import Measured, Teacher, batches
from eval.search.program import Request, search
from eval.search.rows import FIRST_SEED, Rows, check_development, held_out_prompts
from samplers import compile_plan
from samplers.grids import make_grid
from samplers.presets import Preset
from samplers.scheduled import Choice

NAME = "exp2m_cfg++"


# --- candidates ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(nfe=st.integers(2, 20), seed=st.integers(0, 10**6))
def test_every_candidate_compiles_to_a_checked_plan(schedule, nfe, seed):
    rng = np.random.default_rng(seed)
    parents = space.hand_made(NAME, schedule, nfe)
    for _ in range(8):
        parents = [space.child(parents, rng, schedule), *parents[:5]]
    plan = compile_plan(NAME, schedule, nfe, omega=2, preset=parents[0])
    assert len(plan) == nfe and plan.end == 0
    assert sum(row.weight for row in plan) / nfe == pytest.approx(2)
    gaps = -np.diff(np.log([row.sigma for row in plan]))
    assert (gaps > 0.99 * space.GAP).all()


def test_the_default_is_among_what_a_search_starts_from(schedule):
    """But for its bound on late guidance, and at one strength: a preset only scales its weights."""
    ours = compile_plan(NAME, schedule, 8, omega=space.LATE, cap=inf)
    mean = sum(row.weight for row in ours) / len(ours)

    def numbers(plan):
        return [x for r in plan for x in (r.sigma, r.weight, r.carry.noise, *r.carry.delta)]

    starts = space.hand_made(NAME, schedule, 8)
    plans = [compile_plan(NAME, schedule, 8, omega=mean, preset=start) for start in starts]
    noisy = [numbers(plan) for plan in plans if plan.memory == ours.memory and plan.stochastic]
    assert sum(one == pytest.approx(numbers(ours), rel=1e-4) for one in noisy) == 1


# --- what may be drawn ---------------------------------------------------------------------------


def test_held_out_prompts_are_refused_by_name_and_by_content(tmp_path):
    with pytest.raises(ValueError, match=r"scenes100\.txt is held out"):
        check_development(ROOT / "prompts" / "scenes100.txt")
    renamed = tmp_path / "mine.txt"
    renamed.write_text((ROOT / "prompts" / "scenes100.txt").read_text())
    with pytest.raises(ValueError, match="with a held-out prompt file"):
        check_development(renamed)
    assert len(check_development(ROOT / "prompts" / "scenes_dev40.txt")) == 40


@pytest.mark.parametrize("prompts", [None, ["first prompt", "second prompt", "third prompt"]])
def test_rows_are_the_same_in_any_order_and_keep_off_reported_seeds(prompts):
    rows = Rows(prompts, (1.5, 3.0))
    late = rows.block(8, 6)
    assert rows.block(0, 14) == Rows(prompts, (1.5, 3.0)).block(0, 8) + late
    every = rows.block(0, 200)
    assert min(row.seed for row in every) == FIRST_SEED
    assert len({row.seed for row in every}) == 200
    assert not {row.prompt for row in every} & held_out_prompts()
    assert {(row.prompt, row.omega) for row in every} >= {
        (p, w) for p in prompts or () for w in (1.5, 3.0)
    }
    for batch in batches(every):
        assert len({row.omega for row in batch}) == 1 and len(batch) <= 32


# --- the search ----------------------------------------------------------------------------------

TARGET = [14.0, 3.0, 0.9, 0.3]


def test_a_search_gets_nearer_than_what_it_starts_from(schedule, tmp_path):
    objective = Bowl(TARGET)
    outcome = evolution(tmp_path, schedule, objective, 12_000).run(
        space.hand_made(NAME, schedule, 4), schedule
    )
    assert outcome.standings[-1].gain < 0.5 * outcome.unevolved[-1].gain - 0.1
    assert outcome.standings[-1].start > outcome.standings[0].start
    blocks = [range(s.start, s.start + s.count) for s in outcome.standings]
    assert all(a.stop <= b.start for a, b in pairwise(blocks))


@pytest.mark.parametrize("fatal", [1, 9, 25, 33])
def test_a_killed_search_ends_as_one_that_was_not(schedule, tmp_path, fatal):
    first = space.hand_made(NAME, schedule, 4)
    whole = evolution(tmp_path / "whole", schedule, Bowl(TARGET)).run(first, schedule)
    with pytest.raises(Killed):
        evolution(tmp_path / "cut", schedule, Bowl(TARGET, fatal)).run(first, schedule)
    (tmp_path / "cut" / "evaluations.json.tmp").write_text("half a fi")
    again = Bowl(TARGET)
    resumed = evolution(tmp_path / "cut", schedule, again).run(first, schedule)
    files = [tmp_path / name / "evaluations.json" for name in ("whole", "cut")]
    assert resumed == whole and files[0].read_bytes() == files[1].read_bytes()
    assert again.calls == len(json.loads(files[0].read_text())["measured"]) - fatal + 1


def test_the_seed_decides_and_so_does_nothing_else(schedule, tmp_path):
    first = space.hand_made(NAME, schedule, 4)
    found = [
        evolution(tmp_path / str(k), schedule, Bowl(TARGET), 5000, seed).run(first, schedule)
        for k, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("floor", "due"), [(0.0, 82.0), (90.0, 90.0)])
def test_loss_bought_with_clip_counts_less(schedule, tmp_path, floor, due):
    """Bowl's CLIP grows with the first step's weight; the recipe's is 82."""
    search = evolution(tmp_path, schedule, Bowl(TARGET), clip_weight=5.0, clip_floor=floor)
    steps = [Choice(s) for s in make_grid("karras", schedule, 4)[:-1]]
    low = Preset(NAME, tuple(space.legal([replace(steps[0], weight=0.5), *steps[1:]], schedule)))
    standing = search._stand(low, 0, 64)
    assert standing.recipe.clip == 82 and standing.found.clip < 81.5
    loss = standing.found.loss - standing.recipe.loss
    assert standing.gain == pytest.approx(loss + 5 * (due - standing.found.clip))


def test_a_budget_that_is_too_small_says_how_much_is_needed(schedule, tmp_path):
    with pytest.raises(
        ValueError, match="budget 100 is too small for 64 images per candidate; give 2368"
    ):
        evolution(tmp_path, schedule, Bowl(TARGET), 100).run([], schedule)
    with pytest.raises(ValueError, match="screen is 1; it must be a whole number from 2"):
        evolution(tmp_path, schedule, Bowl(TARGET), 100, screen=1).run([], schedule)


def test_a_candidate_is_screened_on_as_many_images_as_asked_for(schedule, tmp_path):
    search = evolution(tmp_path, schedule, Bowl(TARGET), 8000, screen=200)
    outcome = search.run(space.hand_made(NAME, schedule, 4), schedule)
    screening, *rounds = (standing.count for standing in outcome.standings)
    assert screening == 200 and min(rounds) >= 200
    assert outcome.candidates <= 8000 / 2 / 200


@pytest.mark.parametrize("budget", [2368, 2600, 3000, 4000])
def test_no_budget_is_overspent_and_every_start_is_tried(schedule, tmp_path, budget):
    search, first = evolution(tmp_path, schedule, Bowl(TARGET), budget), space.hand_made
    outcome = search.run(first(NAME, schedule, 4), schedule)
    assert search._spent <= budget
    assert outcome.candidates >= len(first(NAME, schedule, 4))


def test_a_weight_that_is_no_number_is_refused(schedule, tmp_path):
    asked = Request(str(place(tmp_path) / "tiny"), 4, tmp_path / "s", clip_weight=float("nan"))
    with pytest.raises(ValueError, match="clip_weight is nan; it must be finite"):
        search(asked, lambda *_: Closed(schedule))
    assert not (tmp_path / "s").exists()


def test_a_journal_takes_neither_another_search_nor_another_folder(tmp_path):
    Journal(tmp_path / "a", {"nfe": 4}).add("x", Measured(1.0))
    with pytest.raises(ValueError, match="other settings \\(nfe: 4, now 5\\)"):
        Journal(tmp_path / "a", {"nfe": 5})
    Journal(tmp_path / "failed", {"nfe": 4})  # nothing was measured: another may take its place
    Journal(tmp_path / "failed", {"nfe": 5}).add("x", Measured(1.0))
    assert Journal(tmp_path / "failed", {"nfe": 5}).find("x") == Measured(1.0)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds no search"):
        Journal(tmp_path / "b", {"nfe": 4})


def test_a_search_resumes_by_what_its_reference_holds(tmp_path, monkeypatch):
    """Another name of the same features goes on; other features under the same name do not."""
    judge = extractor()
    monkeypatch.setattr(program, "extractor_for", lambda *_, **__: (judge, {}))
    model, file = str(place(tmp_path) / "tiny"), make_reference(tmp_path / "reference.npz")
    asked = Request(model, 4, tmp_path / "s", budget=74, screen=2, reference=str(file))
    first = search(asked, lambda *_: Double())
    moved = replace(asked, reference=str(file.rename(tmp_path / "moved.npz")))
    again = Double()
    assert search(moved, lambda *_: again).preset == first.preset and again.evaluations == 0
    make_reference(file, 300)
    with pytest.raises(ValueError, match=r'other settings \(reference: "[0-9a-f]{16}", now "'):
        search(asked, lambda *_: Double())
    judge.scorer.identity = "mean-colours-2"
    with pytest.raises(ValueError, match=r'scorer: "mean-colours-1", now "mean-colours-2"'):
        search(moved, lambda *_: Double())


# --- the teacher ---------------------------------------------------------------------------------


def test_the_teachers_own_plan_is_at_distance_0_and_a_coarse_one_is_not(schedule):
    objective = Teacher(Closed(schedule), Rows(["a"], (1.5, 3.0)))
    fine = objective.measure(objective._fine, 0, 8).loss
    coarse = objective.measure(lambda w: compile_plan("ddim", schedule, 5, omega=w), 0, 8).loss
    assert fine == 0 and coarse > 0.05


def test_fitted_weights_beat_the_exact_ones_on_pairs_they_have_not_seen(schedule):
    """On two mixtures at NFE 5; the fit must keep constant data where it is."""
    sd, rows = Closed(schedule), Rows(["a"], (1.5, 3.0))
    pairs = [teacher.teach(sd, batch) for batch in batches(rows.block(0, 256))]
    levels = teacher.snapped(sd, make_grid("karras", schedule, 5)[:-1])
    plain = Preset(NAME, tuple(Choice(level) for level in levels))
    fitted = teacher.fit(sd, NAME, levels, pairs[1:])
    assert [s.sigma for s in fitted.steps] == levels
    for step, end in zip(fitted.steps, [*levels[1:], 0.0], strict=True):
        h = log(step.sigma / end) if end else inf
        assert sum(step.gains) == pytest.approx(-expm1(-h)) == pytest.approx(1 - exp(-h))
    again = Preset.from_json(fitted.to_json())
    assert teacher.error(sd, again, pairs[:1]) < 0.7 * teacher.error(sd, plain, pairs[:1])


def test_a_search_compiles_once_and_mixes_with_no_uncompiled_one(schedule, tmp_path):
    sd = Closed(schedule)
    model = str(place(tmp_path) / "tiny")
    asked = Request(model, 4, tmp_path / "s", mode="teacher", budget=128, compile=True)
    found = search(asked, lambda *_: sd)
    assert sd.compiled == 1 and found.file.is_file()
    with pytest.raises(ValueError, match="compiled"):
        search(replace(asked, compile=False), lambda *_: sd)
    assert sd.compiled == 1


def test_pairs_of_every_strength_are_kept_apart(schedule, tmp_path, monkeypatch):
    """The fit is judged on none that it saw, and on each strength alike."""
    judged = []

    def error(sd, preset, pairs):
        judged.append([row for part in pairs for row in part.rows])
        return 0.0 if any(step.gains for step in preset.steps) else 1.0

    monkeypatch.setattr(teacher, "error", error)
    model = str(place(tmp_path) / "tiny")
    asked = Request(model, 4, tmp_path / "s", mode="teacher", budget=128)
    assert search(asked, lambda *_: Closed(schedule)).preset.steps[0].gains
    apart, used = judged[0], judged[2]
    assert len(apart) == 32 and len(used) == 96 and not {*apart} & {*used}
    assert {w: sum(row.omega == w for row in apart) for w in asked.omegas} == {
        w: 32 / len(asked.omegas) for w in asked.omegas
    }
    with pytest.raises(ValueError, match="budget 127 is too small; a fit needs 128 pairs or more"):
        search(replace(asked, budget=127, out=tmp_path / "t"), lambda *_: Closed(schedule))


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nfe", "1"], "nfe is 1"),
        (["--nfe", "8", "--mode", "evolv"], "did you mean 'evolve'?"),
        (["--nfe", "8", "--omegas", "x"], "cannot use 'x'"),
        (["--nfe", "8", "--prompts", "prompts/scenes100.txt"], "held out for reports"),
        (["--nfe", "8", "--model", "owner/name"], "give --prompts"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, message):
    assert main(["search", *words, "--out", str(tmp_path / "s")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert not (tmp_path / "s").exists()


def test_help_opens_with_examples(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert "python -m eval search --model" in capsys.readouterr().out.split("options:")[0]
