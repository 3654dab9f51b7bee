"""What the README says is what the code does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from eval.claim import beaten_at_once, overview, read
from eval.compare import FOCUS
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


def committed(pattern: str) -> dict[str, dict]:
    return read(sorted((ROOT / "docs/results").glob(pattern)))


def test_the_results_are_the_committed_ones():
    runs = committed("more-*")
    assert len(runs) == 3
    assert side_by_side(runs) in README


def test_the_claim_is_what_these_results_say():
    """How many arms are better in both measures on each model, by how much, and which are level."""
    gaps = {"clip": [], "fid": []}
    for results in committed("more-*").values():
        fronts, model = results["front"], results["model"].removeprefix("standin-")
        words = {arm: {fronts[at][arm]["verdict"] for at in fronts} for arm in fronts["clip"]}
        both = [arm for arm, found in words.items() if found == {"better"}]
        counted = f"{len(both)} of {{}}12{{}}on [{model}](docs/results/more-{model}/README.md)"
        flat = " ".join(README.split())
        assert any(counted.format("", gap) in flat for gap in (" ", " arms "))
        assert {"ddim", "dpm2m", "dpm2s"} <= set(both) and len(words) == 12
        level = {arm for arm in words if words[arm] == {"not distinguishable"}}
        assert (
            level
            == {*words} - {*both}
            == {"dpm3m_sde"} | ({"dpm3m_sde_cfg++"} if model == "sd20" else set())
        )
        for at, found in gaps.items():
            found += [fronts[at][arm]["difference"] for arm in both]
    near, far = max(gaps["clip"]), min(gaps["clip"])
    assert f"FID at equal CLIP −{-near:.2f} to −{-far:.2f}, CLIP at equal FID" in README
    assert f"+{min(gaps['fid']):.1f} to +{max(gaps['fid']):.1f})" in README


def test_what_one_strength_beats_is_what_these_results_say():
    found = {name.split(",")[0]: beaten_at_once(r) for name, r in committed("more-*").items()}
    assert found["standin-sdxl"][0] == 2 and len(found["standin-sdxl"][1]) == 10
    assert [len(found[f"standin-{m}"][1]) for m in ("sd15", "sd20")] == [1, 0]
    assert (
        "10 of the 12 arms, as measured; on sd15 that holds against one, on sd20 against" in README
    )


def test_the_overview_is_that_of_the_committed_results():
    assert overview(committed("standin-*")) in README
    assert overview(committed("baselines-*")) in README


def test_the_duels_are_the_committed_ones():
    duels = committed("duel-*")
    assert len(duels) == 3
    for results in duels.values():
        told = [difference_text(results["front"][at]["dpm3m_sde"]) for at in ("clip", "fid")]
        assert " | ".join(told) in README


def test_the_curve_is_the_committed_one():
    found = json.loads((ROOT / "docs/results/standin-sd15/curve.json").read_text())
    fid = {(p["arm"], p["nfe"]): p["fid"] for p in found["points"]}
    clip = {(p["arm"], p["nfe"]): p["clip"] for p in found["points"]}
    lowest = [n for n in found["nfes"] if min((fid[a, n], a) for a in found["arms"])[1] == FOCUS]
    assert f"FID of these arms at {', '.join(map(str, lowest[:-1]))} and {lowest[-1]}." in README
    other = [f"{fid['dpm3m_sde', n]:.{d}f} at {n}" for n, d in ((10, 1), (8, 1), (5, 0))]
    assert f"(FID {', '.join(other)})" in README
    told = [
        f"{fid[a, 5]:.2f} and CLIP {clip[a, 5]:.1f}" for a in ("exp2m_cfg++_few", FOCUS, "ddim")
    ]
    flat = " ".join(README.split())
    assert all(text in flat or text.replace("CLIP ", "") in flat for text in told)


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
