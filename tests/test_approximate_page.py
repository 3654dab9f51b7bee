"""The page on approximate speed is what its committed results give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.approximate import summary
from benchmarks.approximate_page import write_page

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "speed"


def test_the_page_is_that_of_its_results(tmp_path):
    shutil.copytree(FOLDER / "approximate", tmp_path / "approximate")
    assert write_page(tmp_path) == (FOLDER / "approximate.md").read_text(encoding="utf-8")


def test_without_a_fid_the_rest_is_drawn(tmp_path):
    """A real model without --reference has none; that must not lose a whole measurement."""
    shutil.copytree(FOLDER / "approximate", tmp_path / "approximate")
    for file in (tmp_path / "approximate").glob("*.json"):
        result = json.loads(file.read_text(encoding="utf-8")) | {"fid_floor": None}
        for row in result["rows"]:
            row.pop("fid")
            row["against"].pop("fid", None)
        file.write_text(json.dumps(result), encoding="utf-8")
    assert "| – |" in write_page(tmp_path)
    assert (tmp_path / "approximate.png").stat().st_size > 1000


def test_a_speed_up_is_the_median_over_pairs():
    found = summary([(2.0, 1.0), (3.0, 1.0), (8.0, 2.0)])
    assert (found["speedup"], found["range"], found["pairs"]) == (3.0, [2.0, 4.0], 3)
    assert found["exact_s"] == pytest.approx(3.0)
