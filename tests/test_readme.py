"""What the README says is what the code does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from eval.claim import read
from eval.page import page
from eval.summary import side_by_side
from eval.tables import difference_text
from samplers import compile_plan
from samplers.__main__ import stable_diffusion, table
from samplers.registry import _RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.parent for path in (ROOT / "docs/results").glob("*/README.md"))


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_sampler_table_is_the_registry():
    assert table() in README


def test_the_results_are_the_committed_ones():
    runs = read(sorted((ROOT / "docs/results").glob("standin-*")))
    at_20 = {name: results for name, results in runs.items() if results["nfe"] == 20}
    assert len(at_20) == 3
    assert side_by_side(at_20) in README


def test_the_duels_are_the_committed_ones():
    duels = sorted((ROOT / "docs/results").glob("duel-*"))
    assert len(duels) == 3
    for results in read(duels).values():
        told = [difference_text(results["front"][at]["dpm3m_sde"]) for at in ("clip", "fid")]
        assert " | ".join(told) in README


def test_the_four_baselines_are_the_committed_ones():
    folders = sorted((ROOT / "docs/results").glob("baselines-*"))
    assert len(folders) == 3
    for folder in folders:
        (results,) = read([folder]).values()
        title = f"{results['model'].removeprefix('standin-')}, {results['prompt_count']:,} captions"
        start = f"| [{title}](docs/results/{folder.name}/README.md)"
        for arm in results["front"]["clip"]:
            told = [difference_text(results["front"][at][arm]) for at in ("clip", "fid")]
            assert f"{start} | `{arm}` | {' | '.join(told)} |" in README


@pytest.mark.parametrize("model", ["sd15", "sd20"])
def test_the_verdicts_with_more_captions_are_the_committed_ones(model):
    (results,) = read([ROOT / f"docs/results/more-{model}"]).values()
    by_clip, by_fid = results["front"]["clip"], results["front"]["fid"]
    both = [a for a in by_clip if by_clip[a]["verdict"] == by_fid[a]["verdict"] == "better"]
    page = f"[{model}](docs/results/more-{model}/README.md)"
    assert f"than {len(both)} of {len(by_clip)} on {page}" in README


@pytest.mark.parametrize("folder", PAGES, ids=lambda folder: folder.name)
def test_every_page_is_what_its_results_say(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    assert page(copy).read_text(encoding="utf-8") == (folder / "README.md").read_text("utf-8")


def test_no_run_is_without_its_page():
    assert {path.parent for path in (ROOT / "docs/results").glob("*/results.json")} == {*PAGES}


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
