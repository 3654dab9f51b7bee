"""Scripts beside `python -m eval` refuse what they cannot use in one line, before they work."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from benchmarks import clock as clocks


def refusal(capsys, monkeypatch, script: str, *words: str) -> str:
    """Run a script's `main`; return what it said when it exited with 2."""
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    return said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ways exact:4 cache --nfe 4", "error: --ways exact:4 is the exact run at --nfe 4; "),
        ("--ways cache cache", "error: --ways: cache and cache are the same, cache["),
        ("--ways cache cache[keys=uniform:2]", "error: --ways: cache[keys=uniform:2] and cache "),
        ("--ways exact:8 exact:08", "error: --ways: exact:08 and exact:8 are the same"),
        ("--ways exact:abc", "error: --ways exact:abc: exact: takes a number of evaluations"),
        ("--ways exact:0", "error: --ways exact:0: exact: takes a number of evaluations"),
        ("--ways cash", "error: unknown approximation 'cash'"),
        ("--seeds 3-1", "error: argument --seeds: seeds '3-1': the range 3-1 runs backwards"),
    ],
)
def test_ways_that_measure_nothing_are_refused_before_a_model_is_loaded(
    words, message, capsys, monkeypatch
):
    from benchmarks import approximate

    monkeypatch.setattr(approximate.models, "load", lambda *_: pytest.fail("loaded"))
    words = ["--model", "standin-sd15", *words.split()]
    said = refusal(capsys, monkeypatch, "benchmarks.approximate", *words)
    assert said.startswith(message) and said.count("\n") == 1


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_what_a_gpu_does_is_timed_by_the_wall_after_it_is_done(kind, monkeypatch):
    waited = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda *_: waited.append(kind))
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: 7.0)
    assert clocks.clock(torch.device(kind)) == 7.0 and waited == [kind]
    monkeypatch.setattr(clocks.time, "process_time", lambda: 3.0)
    assert clocks.clock(torch.device("cpu")) == 3.0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("benchmarks.guidance_bands --models standin-sd51", "unknown model 'standin-sd51', did"),
        ("benchmarks.guidance_bands --models standin-sd15,sd51", "unknown model 'sd51'"),
        ("benchmarks.guidance_bands --prompts no.txt", "no prompt file no.txt; give"),
        ("benchmarks.guidance_bands --seeds 3-1", "seeds '3-1': the range 3-1 runs backwards"),
        ("benchmarks.guidance_bands --batch 0", "argument --batch: '0' must be a whole number"),
        ("benchmarks.mixture --arms foo", "unknown sampler 'foo'"),
        (
            "benchmarks.mixture --seeds 3-1",
            "argument --seeds: seeds '3-1': the range 3-1 runs back",
        ),
        ("benchmarks.mixture --nfe 0", "argument --nfe: '0' must be a whole number of at least 1"),
        ("benchmarks.ablations --nfe x", "argument --nfe: 'x' must be whole numbers of at least"),
        ("benchmarks.ablations --seeds 3-1", "argument --seeds: seeds '3-1': the range"),
        ("benchmarks.end_to_end --device cuda:99", "cannot use device 'cuda:99'"),
        ("benchmarks.end_to_end --batches a", "argument --batches: 'a' must be whole numbers"),
        ("benchmarks.step_overhead --json no/o.json", "--json no/o.json: give a file in a folder"),
        ("benchmarks.solver_error --equation pde", "argument --equation: invalid choice: 'pde'"),
        ("benchmarks.solver_error --model nowhere", "unknown model 'nowhere'"),
        ("benchmarks.solver_error --omegas x", "argument --omegas: scales 'x': cannot use 'x'"),
        ("benchmarks.feature_change --model sd15 --seeds 3-1", "argument --seeds: seeds '3-1'"),
        ("standins.edits --methods dim_edit@2", "unknown solver 'dim_edit'; did you mean"),
        ("standins.edits --methods ddim@2", "--methods: ddim edits no picture"),
        ("standins.edits --methods ddim_edit", "--methods has 'ddim_edit'; write METHOD@STRENGTH"),
        ("standins.edits --count 0", "argument --count: '0' must be a whole number of at least 1"),
        ("standins.edits --nfe 0", "argument --nfe: '0' must be a whole number of at least 1"),
        ("standins.evaluate sd15 --sampler foo", "unknown sampler 'foo'"),
        ("standins.train_clip --vae no/vae", "no VAE in no/vae: no config.json; give what"),
        ("standins.train_checker --vae no/vae", "no VAE in no/vae: no config.json; give what"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(command, message, capsys, monkeypatch):
    said = refusal(capsys, monkeypatch, *command.split())
    assert said.startswith(f"error: {message}"), said
    assert said.count("\n") == 1


def test_solver_errors_are_headed_by_the_model_they_are_of(monkeypatch, capsys):
    from benchmarks import solver_error

    monkeypatch.setattr(solver_error.models, "load", lambda *_, **__: None)
    monkeypatch.setattr(solver_error, "errors", lambda *_: {})
    monkeypatch.setattr(sys, "argv", ["solver_error", "--model", "standin-sd20"])
    solver_error.main()
    assert capsys.readouterr().out.startswith("Stand-in sd20, not SD. RMS latent error at NFE 20,")


@pytest.mark.parametrize("equation", ["ode", "sde"])
def test_solver_errors_of_a_standin_have_a_row_per_grid(equation, monkeypatch, capsys):
    from benchmarks import solver_error

    monkeypatch.setattr(solver_error, "LIMIT", 8)
    said = f"solver_error --model standin-sdxl --equation {equation} --images 1 --nfe 4 --omegas 2"
    monkeypatch.setattr(sys, "argv", said.split())
    solver_error.main()
    out = capsys.readouterr().out
    assert out.startswith("Stand-in sdxl, not SD. RMS latent error at NFE 4, 1 images.")
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| 2 | `")]
    wanted = solver_error.EQUATIONS[equation]
    assert [row[1].strip("`") for row in rows] == list(wanted.grids)
    assert all(float(cell.strip("| ")) > 0 for row in rows for cell in row[2:])
    assert all(len(row) == 2 + len(wanted.solvers) for row in rows)
