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
