"""The page of `benchmarks.ablations` says what was run."""

from __future__ import annotations

import sys

import numpy as np

from benchmarks import ablations


def test_the_page_names_its_own_command(tmp_path, monkeypatch, capsys):
    page = tmp_path / "a page.md"
    words = ["--nfe", "5", "--seeds", "0-1", "--images", "7", "--out", str(page)]
    monkeypatch.setattr(sys, "argv", ["ablations", *words])
    monkeypatch.setattr(ablations, "GROUPS", {"one": ("ddim",)})
    monkeypatch.setattr(ablations, "log_ratios", lambda *_: np.array([0.1, 0.2]))
    ablations.main()
    command = f"    python -m benchmarks.ablations --nfe 5 --seeds 0-1 --images 7 --out '{page}'"
    assert command in page.read_text(encoding="utf-8").splitlines()
