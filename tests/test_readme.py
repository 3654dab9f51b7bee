"""What the README says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from eval.claim import read
from eval.summary import side_by_side, summary
from eval.tables import full_text
from samplers import compile_plan
from samplers.__main__ import stable_diffusion, table
from samplers.registry import _RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_sampler_table_is_the_registry():
    assert table() in README


def test_the_results_are_the_committed_ones():
    folders = sorted((ROOT / "docs/results").glob("standin-*"))
    runs = read(folders)
    assert len(runs) == len(folders) >= 3
    for folder, results in zip(folders, runs.values(), strict=True):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert results["stamp"] in text
        assert summary(results) in text
        assert full_text(results, {}).splitlines()[-1] in text
    at_20 = {name: results for name, results in runs.items() if results["nfe"] == 20}
    assert side_by_side(at_20) in README


def test_the_duels_are_the_committed_ones():
    folders = sorted((ROOT / "docs/results").glob("duel-*"))
    assert len(folders) >= 2
    for folder in folders:
        (results,) = read([folder]).values()
        assert summary(results) in (folder / "README.md").read_text(encoding="utf-8")


def test_the_added_sampler_runs(monkeypatch):
    (added,) = [code for code in blocks() if "register(Recipe" in code]
    assert len([line for line in added.splitlines() if line.strip()]) <= 12
    monkeypatch.setattr("samplers.registry._RECIPES", dict(_RECIPES))
    exec(added, {})
    schedule = stable_diffusion()
    mine, ours = (compile_plan(n, schedule, 9, 5.0, grid="karras") for n in ("my_euler", "ddim"))
    assert mine.rows == ours.rows


def test_the_examples_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    examples = [code for code in blocks() if "register(Recipe" not in code]
    assert len(examples) == 3
    for code in examples:
        names: dict = {}
        exec(code, names)
        image = names.get("images", names.get("image"))
        assert image.shape[1:] == (3, 64, 64)
        assert image.isfinite().all()
    assert "exp2m_cfg++: 20 evaluations" in capsys.readouterr().out


def test_every_link_to_a_file_leads_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "standins").glob("*.md")]
    links = [
        (page.relative_to(ROOT), link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not links
