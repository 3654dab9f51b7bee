"""What the README says is what the code does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from eval.claim import overview, read
from eval.compare import FOCUS
from eval.page import page
from eval.summary import side_by_side
from eval.tables import difference_text
from samplers import NoiseSchedule, compile_plan
from samplers.__main__ import table
from samplers.registry import _RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = (ROOT / "docs/results/README.md").read_text(encoding="utf-8")
TOLD, TOLD_ELSEWHERE = (" ".join(text.split()) for text in (README, ELSEWHERE))
FLAT = f"{TOLD} {TOLD_ELSEWHERE}"
PAGES = sorted(path.parent for path in (ROOT / "docs/results").glob("*/README.md"))


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_sampler_table_is_the_registry():
    assert table() in README


def committed(pattern: str) -> dict[str, dict]:
    return read(sorted((ROOT / "docs/results").glob(pattern)))


def test_the_results_are_the_committed_ones():
    for pattern, text in (("weak-*", README), ("arms-*", ELSEWHERE)):
        runs = committed(pattern)
        assert len(runs) == {"weak-*": 3, "arms-*": 4}[pattern]
        assert side_by_side(runs) in text


def verdicts(results: dict) -> dict[str, set[str]]:
    """Return arm → what the focus arm is against it, in the two measures."""
    front = results["front"]
    return {arm: {front[at][arm]["verdict"] for at in front} for arm in front["clip"]}


def in_words(found: dict) -> str:
    """Return a difference with its interval as running text has it, with true minus signs."""
    low, high = found["interval"]
    return f"{found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")


def test_the_claim_is_what_these_results_say():
    """Which baselines are beaten beyond doubt on which model, and by how much."""
    level, three = {"not distinguishable"}, ("ddim", "dpm2m", "dpm2s")
    runs, gaps = committed("weak-*").values(), {"clip": [], "fid": []}
    for results in runs:
        found = verdicts(results)
        assert found.pop("dpm3m_sde") == level and set(found) == {*three}
        assert all(words == {"better"} for words in found.values())
        for at, sizes in gaps.items():
            sizes += [abs(results["front"][at][arm]["difference"]) for arm in three]
    for at, sign, digits in (("clip", "lower", 2), ("fid", "higher", 1)):
        low, high = min(gaps[at]), max(gaps[at])
        assert f"{sign} by {low:.{digits}f} to {high:.{digits}f}" in TOLD
    rivals = [in_words(results["front"]["clip"]["dpm3m_sde"]) for results in runs]
    assert "(FID {}, {}, {})".format(*rivals) in TOLD
    clips = [f"{r['front']['fid']['dpm3m_sde']['difference']:+.2f}" for r in runs]
    assert "(CLIP at equal FID {}, {} and {})".format(*clips) in TOLD_ELSEWHERE
    for results in runs:  # behind as measured, and both bests are ours
        assert results["front"]["clip"]["dpm3m_sde"]["difference"] < 0
        bests = {arm: best(results, arm) for arm in (FOCUS, *three, "dpm3m_sde")}
        assert min(bests, key=lambda arm: bests[arm][0]) == FOCUS
        assert max(bests, key=lambda arm: bests[arm][1]) == FOCUS
        cells = results["cells"]
        assert cells["dpm3m_sde@w3"]["clip"] < cells["dpm3m_sde@w2"]["clip"]
        assert cells[f"{FOCUS}@w3"]["clip"] > cells[f"{FOCUS}@w2"]["clip"]
    floors = {r["prompt_count"]: r["cells"][f"{FOCUS}@w2"]["fid_floor"] for r in runs}
    said = f"3,000 true ones would have {floors[3000]:.2f}, 2,000 would have {floors[2000]:.2f}."
    assert said in TOLD


def test_the_claim_at_strong_guidance_is_what_these_results_say():
    """The fronts, and the default's strength against three baselines at their own highest CLIP."""
    told, three = TOLD, ("ddim", "dpm2m", "dpm2s")
    runs = committed("strong-*-web")
    assert len(runs) == 3 and side_by_side(runs) in README
    _, sd20, sdxl = runs.values()
    for results in (sd20, sdxl):  # on which nothing was chosen
        assert all(verdicts(results)[arm] == {"better"} for arm in three)
    for at, sign, digits in (("clip", "lower", 2), ("fid", "higher", 1)):
        gaps = [abs(r["front"][at][arm]["difference"]) for r in (sd20, sdxl) for arm in three]
        assert f"{sign} by {min(gaps):.{digits}f} to {max(gaps):.{digits}f}" in told
    ends = []
    for results in runs.values():
        bests = {arm: best(results, arm) for arm in (FOCUS, *results["front"]["clip"])}
        assert max(bests, key=lambda arm: bests[arm][1]) == FOCUS
        ends.append((bests["dpm3m_sde"][1], bests[FOCUS][1]))
    theirs, ours = zip(*ends, strict=True)
    said = "Its CLIP ends at {:.1f}, {:.1f} and {:.1f}, ours at {:.1f}, {:.1f} and {:.1f}"
    assert said.format(*theirs, *ours) in told
    gains, rival = [], []
    for results in runs.values():
        found = results["default_scale"]
        assert (found["default"], found["omega"]) == (0.6, 7.5)
        rows = {row["baseline"]: row for row in found["rows"] if row["best"] == "clip"}
        assert {rows[arm]["clip"]["verdict"] for arm in three} == {"not distinguishable"}
        assert {rows[arm]["fid"]["verdict"] for arm in three} == {"better"}
        gains += [-rows[arm]["fid"]["difference"] for arm in three]
        assert rows["dpm3m_sde"]["clip"]["verdict"] == "better"
        rival.append(rows["dpm3m_sde"]["clip"]["difference"])
    assert f"beyond doubt, on all three (by {min(rival):.1f} to {max(rival):.1f})" in told
    assert (
        f"FID lower by {min(gains):.1f} to {max(gains):.1f}, beyond doubt, at CLIP scores" in told
    )


def test_what_is_said_of_sd15_web_and_of_dpm3m_sde_at_strong_guidance():
    told, three = TOLD, ("ddim", "dpm2m", "dpm2s")
    first, sd20, sdxl = committed("strong-*-web").values()
    (again,) = committed("again-sd15-web").values()
    said = []
    for results in (first, again):  # ahead in both, and not beyond doubt
        front = results["front"]
        assert all(found == {"not distinguishable"} for found in verdicts(results).values())
        assert all(found["difference"] < 0 for found in front["clip"].values())
        assert all(found["difference"] > 0 for found in front["fid"].values())
        gaps = sorted(-front["clip"][arm]["difference"] for arm in three)
        said.append(f"−{gaps[0]:.2f} to −{gaps[-1]:.2f}")
    assert f"1,500 say FID {said[0]} against the three, by intervals that include 0," in told
    assert all(
        low < 0 < high for low, high in (first["front"]["clip"][arm]["interval"] for arm in three)
    )
    front = again["front"]["clip"]
    assert f"they say {said[1]}, and {in_words(front['dpm3m_sde'])} against `dpm3m_sde`." in told
    assert {arm for arm in front if front[arm]["interval"][1] >= 0} == {"ddim"}
    assert {f"{found['p_holm']:.2f}" for found in front.values()} == {"0.08"}
    assert verdicts(sd20)["dpm3m_sde"] == {"better"}
    fid, clip = (sdxl["front"][at]["dpm3m_sde"] for at in ("clip", "fid"))
    assert (fid["verdict"], clip["verdict"]) == ("not distinguishable", "better")
    assert f"({in_words(clip)}; FID {in_words(fid)})" in told


def test_what_is_said_of_dpm3m_sde_with_strong_guidance():
    """Runs of its own: where ours is better, where it is level, and where the fronts end."""
    sd20, sdxl = committed("rival-*-web").values()
    assert verdicts(sd20) == {"dpm3m_sde": {"better"}}
    assert verdicts(sdxl) == {"dpm3m_sde": {"not distinguishable"}}
    for model, results in (("sd20-web", sd20), ("sdxl-web", sdxl)):
        found = [results["front"][at]["dpm3m_sde"] for at in ("clip", "fid")]
        ends = [best(results, arm)[1] for arm in (FOCUS, "dpm3m_sde")]
        row = " | ".join([*map(difference_text, found), f"{ends[0]:.2f}, {ends[1]:.2f}"])
        assert f"(rival-{model}/README.md) | {row} |" in ELSEWHERE
    fid, clip = (sd20["front"][at]["dpm3m_sde"] for at in ("clip", "fid"))
    said = "p = {:.3f} and {:.3f}; corrected for the two models, {:.2f} and {:.2f}."
    assert said.format(fid["p"], clip["p"], 2 * fid["p"], 2 * clip["p"]) in TOLD_ELSEWHERE


def test_what_is_said_of_seven_evaluations_with_strong_guidance():
    runs, told = committed("strong-*-web-nfe7"), TOLD_ELSEWHERE
    few = "exp2m_cfg++_few"
    in_doubt = set()
    for name, results in runs.items():
        fronts = results["front"]
        assert results["focus"] == few and len(fronts["clip"]) == 4
        assert all(found["difference"] < 0 for found in fronts["clip"].values())
        assert all(found["difference"] > 0 for found in fronts["fid"].values())
        in_doubt |= {
            (name.split(",")[0].removeprefix("standin-"), arm, at)
            for at, front in fronts.items()
            for arm, found in front.items()
            if found["verdict"] != "better"
        }
    assert in_doubt == {  # FID is compared at equal CLIP, and the other way round
        ("sd15-web", "ddim", "clip"),
        ("sd15-web", "ddim", "fid"),
        ("sd20-web", "dpm2m", "clip"),
        ("sdxl-web", "ddim", "fid"),
    }
    sd15, sd20, _ = runs.values()
    assert f"({in_words(sd20['front']['clip']['dpm2m'])}, at one point)" in told
    assert f"`ddim` is level ({in_words(sd15['front']['clip']['ddim'])})" in told
    ours, theirs, lower = ends_in_words(runs, few)
    said = f"CLIP ends at {ours}, that of `ddim` at {theirs}, and FID at these ends is lower by"
    assert f"{said} {lower}. `dpm3m_sde` cannot" in told


def ends_in_words(runs: dict[str, dict], arm: str) -> list[str]:
    """Return the highest CLIP of an arm and of `ddim` on three models, and by what FID is lower."""
    tops = [
        [
            max((c["clip"], c["fid"]) for c in r["cells"].values() if c["arm"] == a)
            for a in (arm, "ddim")
        ]
        for r in runs.values()
    ]
    found = [(ours[0], theirs[0], theirs[1] - ours[1]) for ours, theirs in tops]
    return ["{:.1f}, {:.1f} and {:.1f}".format(*column) for column in zip(*found, strict=True)]


def test_what_is_said_of_ten_evaluations_with_strong_guidance():
    runs, told, level = committed("strong-*-web-nfe10"), TOLD_ELSEWHERE, {"not distinguishable"}
    sd15, sd20, sdxl = runs.values()
    words = verdicts(sd20)
    assert len(words) == 4 and all(found == {"better"} for found in words.values())
    for results in (sd15, sdxl):
        words, front = verdicts(results), results["front"]
        if results is sd15:
            assert front["fid"]["dpm3m_sde"]["verdict"] == "better"
            assert words.pop("dpm3m_sde") == {"better", "not distinguishable"}
        assert all(found == level for found in words.values())
        assert all(found["difference"] < 0 for found in front["clip"].values())
        assert all(found["difference"] > 0 for found in front["fid"].values())
        cells = results["cells"]
        assert all(cells[f"dpm2m@w{w}"]["fid"] < cells[f"{FOCUS}@w{w}"]["fid"] for w in (2, 3))
    fid, clip = (
        sorted(abs(found["difference"]) for found in sd20["front"][at].values())
        for at in ("clip", "fid")
    )
    assert f"(FID −{fid[0]:.2f} to −{fid[-1]:.2f}, CLIP +{clip[0]:.1f} to +{clip[-1]:.1f})" in told
    ours, theirs, lower = ends_in_words(runs, FOCUS)
    said = (
        f"CLIP ends at {ours} on sd15-web, sd20-web and sdxl-web, that of `ddim` at {theirs}, and"
    )
    assert f"{said} FID at these ends is lower by {lower}." in told


def test_what_is_said_of_fifteen_evaluations_with_strong_guidance():
    (results,) = committed("strong-sd15-web-nfe15").values()
    told = TOLD_ELSEWHERE
    gaps = results["front"]
    assert all(found == {"not distinguishable"} for found in verdicts(results).values())
    fid, clip = (
        sorted((abs(found["difference"]) for arm, found in gaps[at].items() if arm != "dpm3m_sde"))
        for at in ("clip", "fid")
    )
    for at, sign in (("clip", -1), ("fid", 1)):
        ends = [
            end for a, found in gaps[at].items() if a != "dpm3m_sde" for end in found["interval"]
        ]
        assert all(sign * end > 0 for end in ends)
    assert f"(FID −{fid[0]:.2f} to −{fid[-1]:.2f}, CLIP +{clip[0]:.1f} to +{clip[-1]:.1f})" in told
    bests = {arm: best(results, arm) for arm in (FOCUS, *gaps["clip"])}
    assert min(bests, key=lambda arm: bests[arm][0]) == FOCUS
    assert max(bests, key=lambda arm: bests[arm][1]) == FOCUS


def test_what_is_said_of_thirty_evaluations_with_strong_guidance():
    (results,) = committed("strong-sd15-web-nfe30").values()
    told, front = TOLD_ELSEWHERE, results["front"]
    words = verdicts(results)
    assert len(words) == 4 and all(found == {"better"} for found in words.values())
    fid, clip = (
        sorted(abs(found["difference"]) for found in front[at].values()) for at in ("clip", "fid")
    )
    assert f"(FID −{fid[0]:.2f} to −{fid[-1]:.2f}, CLIP +{clip[0]:.1f} to +{clip[-1]:.1f})" in told
    bests = {arm: best(results, arm) for arm in (FOCUS, *front["clip"])}
    assert min(bests, key=lambda arm: bests[arm][0]) == FOCUS
    assert max(bests, key=lambda arm: bests[arm][1]) == FOCUS


def test_the_claim_of_every_other_arm_is_what_these_results_say():
    """Better than all eight, in both measures, with both bests, on every model that was drawn."""
    gaps = {"clip": [], "fid": []}
    for results in committed("arms-*").values():
        words, model = verdicts(results), results["model"].removeprefix("standin-")
        assert len(words) == 8 and all(found == {"better"} for found in words.values())
        assert f"[{model}](arms-{model}/README.md)" in TOLD_ELSEWHERE
        bests = {arm: best(results, arm) for arm in (FOCUS, *words)}
        assert min(bests, key=lambda arm: bests[arm][0]) == FOCUS
        assert max(bests, key=lambda arm: bests[arm][1]) == FOCUS
        for at, found in gaps.items():
            found += [abs(gap["difference"]) for gap in results["front"][at].values()]
    for told, at, digits in ((TOLD, "clip", 2), (TOLD_ELSEWHERE, "clip", 2), (TOLD, "fid", 1)):
        said = f"{min(gaps[at]):.{digits}f} to {max(gaps[at]):.{digits}f}"
        assert said in told


def test_the_overview_is_that_of_the_committed_results():
    assert overview(committed("baselines-*")) in ELSEWHERE


def test_the_duels_are_the_committed_ones():
    duels = sorted((ROOT / "docs/results").glob("duel-*"))
    assert len(duels) == 4
    for folder in duels:
        (results,) = read([folder]).values()
        told = [difference_text(results["front"][at]["dpm3m_sde"]) for at in ("clip", "fid")]
        (row,) = (x for x in ELSEWHERE.splitlines() if f"({folder.name}/README.md), " in x)
        assert row.endswith(f"| {' | '.join(told)} |")
        assert f"{results['prompt_count'] * len(results['seeds']):,}" in row


def best(results: dict, arm: str) -> tuple[float, float]:
    """Return an arm's lowest FID and highest CLIP over its strengths."""
    own = [cell for cell in results["cells"].values() if cell["arm"] == arm]
    return min(cell["fid"] for cell in own), max(cell["clip"] for cell in own)


def test_single_bests_in_the_prose_are_the_committed_ones():
    further = [
        best(results, arm)[1] - best(results, FOCUS)[1]
        for name, results in committed("baselines-*").items()
        if "sdxl" not in name and "NFE 10" in name
        for arm in ("ddim", "dpm2m", "dpm2s")
    ]
    assert f"to a CLIP higher by {min(further):.1f} to {max(further):.1f}." in FLAT
    for nfe in (15, 30):
        run = committed("baselines-*")[f"standin-sd15, NFE {nfe}"]
        both = {arm: best(run, arm) for arm in (FOCUS, *run["front"]["clip"])}
        assert both[FOCUS][0] == min(fid for fid, _ in both.values())
        assert both[FOCUS][1] == max(clip for _, clip in both.values())
        (fid, clip), (their_fid, their_clip) = both[FOCUS], both["dpm3m_sde"]
        assert f"({fid:.2f}; `dpm3m_sde` {their_fid:.2f})" in FLAT
        assert f"({clip:.2f}; {their_clip:.2f})" in FLAT


def test_the_mean_strength_of_the_default_is_what_the_plan_says():
    schedule = NoiseSchedule.stable_diffusion()
    plans = (compile_plan(FOCUS, schedule, 20, omega=w) for w in (1.5, 3, 5))
    means = [f"{plan.omega:.1f}" for plan in plans]
    told = "mean over 20 steps: {} at ω = 1.5, {} at 3, {} at 5)".format(*means)
    assert told in TOLD


def test_the_curve_is_the_committed_one():
    found = json.loads((ROOT / "docs/results/curve-sd15/curve.json").read_text())
    fid, right = (
        {(p["arm"], p["nfe"]): p[name] for p in found["points"]} for name in ("fid", "all_right")
    )
    other = [f"{fid['dpm3m_sde', n]:.{d}f} at {n}" for n, d in ((10, 1), (7, 0), (5, 0))]
    assert f"(FID {', '.join(other)})" in TOLD_ELSEWHERE
    ours = min(right[FOCUS, n] for n in found["nfes"] if n >= 7)
    assert ours > max(right[a, n] for a in ("ddim", "dpm2m", "dpm2s") for n in found["nfes"])


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
    schedule = NoiseSchedule.stable_diffusion()
    mine, ours = (compile_plan(n, schedule, 9, 5.0, grid="karras") for n in ("my_euler", "ddim"))
    assert mine.rows == ours.rows


def test_the_examples_run(monkeypatch, capsys):
    """In order and in one namespace, as a reader pastes them: API, SDXL, diffusers, any network."""
    monkeypatch.chdir(ROOT)
    examples = [code for code in blocks() if "register(Recipe" not in code]
    names: dict = {}
    results = ("images", "image", "image", "latents")
    shapes = ((2, 3, 64, 64), (1, 3, 64, 64), (3, 64, 64), (3, 4, 8, 8))
    for code, name, shape in zip(examples, results, shapes, strict=True):
        exec(code, names)
        found = names.pop(name)
        found = pil_to_tensor(found).float() if isinstance(found, Image.Image) else found
        assert found.shape == shape and found.isfinite().all() and found.std() > 0.01
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


@pytest.mark.parametrize("name", ["inversion", "approximate_speed"])
def test_the_last_example_of_a_page_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.S)[-1]
    names: dict = {}
    exec(code, names)
    image = names.get("images", names.get("image"))
    assert image.shape == (1, 3, 64, 64) and image.isfinite().all()
