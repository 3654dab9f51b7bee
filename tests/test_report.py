"""The report: self-contained, escaped, readable without what a run may lack."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_run import ARMS, OMEGAS, PROMPTS, add_curve, extractor, make_reference, make_run

from eval import figures, report, score
from eval.__main__ import main
from eval.arms import parse_arms
from samplers import compile_plan


@pytest.fixture(scope="module", autouse=True)
def network_free():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "extractor_for", lambda *_: (extractor(), {}))
        yield


def scored(run):
    make_reference(run.parent / "reference.npz")
    score.score(run, reference=str(run.parent / "reference.npz"), bootstrap=40)
    return report.report(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reported run, with an NFE curve; tests only read it."""
    folder = make_run(tmp_path_factory.mktemp("report") / "run")
    scored(folder)
    add_curve(folder)
    report.report(folder)
    return folder


@pytest.fixture
def own(tmp_path):
    """A run of one's own, to change."""
    return make_run(tmp_path / "own", omegas=(1.5, 5.0), prompts=PROMPTS[:3], seeds=(0,))


@pytest.fixture(scope="module")
def html(run):
    return (run / "report.html").read_text(encoding="utf-8")


def test_report_is_one_file_and_says_the_verdict_first(run, html):
    assert not re.search(r'(src|href)="(?!data:|#)', html) and "://" not in html
    assert html.count("data:image/png;base64,") >= len(PROMPTS) * len(ARMS)
    assert html.index("not SD numbers") < html.index("FID at matched CLIP") < html.index("<figure")
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert "<b>red</b>" not in html and "&lt;b&gt;red&lt;/b&gt; circle &amp; square" in html
    assert "python -m eval run --model standin-sd15" in html
    assert "python -m eval curve runs/run --nfes 5,20 --omega 3" in html
    assert str(run.parent) not in html


def test_every_picture_and_plot_has_a_text_for_those_who_cannot_see_it(html):
    images = re.findall(r"<img[^>]*>", html)
    assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
    assert all(re.search(r'role="img" aria-label=', svg) for svg in re.findall(r"<svg[^>]*>", html))


def test_plots_take_the_page_s_colours_and_keep_their_numbers(html):
    plots = re.findall(r"<figure.*?</figure>", html, re.S)
    assert len(plots) == 2 + 2 + 2 + 2  # front twice, FID and CLIP, saturation and contrast, NFE
    for plot in plots:
        assert "#1d1f23" not in plot and "<style" not in plot and "currentColor" in plot
        for place in range(len(ARMS)):
            assert f'class="arm arm-{place}"' in plot
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    ticks = [float(t) for t in re.findall(r">(0\.\d+)</text>", plots[5])]  # contrast
    assert len(ticks) > 2 and len(set(ticks)) == len(ticks)


def test_figures_are_there_and_the_grid_shows_the_images(run):
    for name in ("front", "scale", "burn", "nfe", "grid"):
        with Image.open(run / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300
    with Image.open(run / "figures" / "grid.png") as image:
        pixels = np.array(image)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_points_that_fell_apart_do_not_press_the_others_into_a_corner(run):
    results = json.loads((run / "results.json").read_text())
    lowest = min(cell["fid"] for cell in results["cells"].values())
    for cell in results["cells"].values():
        cell["fid"], cell["fid_interval"] = lowest, [0.9 * lowest, 1.1 * lowest]
    (plain,) = figures.front(results).axes
    assert not any("outside" in text.get_text() for text in plain.texts)
    next(iter(results["cells"].values()))["fid"] = 50 * lowest
    (framed,) = figures.front(results).axes
    told = f"points outside: 1, up to FID {50 * lowest:.3g}"
    assert told in [text.get_text() for text in framed.texts]
    assert framed.get_ylim()[1] < 2 * lowest


def test_cells_keep_the_order_of_the_run(html):
    rows = re.findall(r'<tr[^>]*><th scope="row">([^<]+)</th><td>([^<]+)</td><td>', html)
    table = [row for row in rows if row[1] in {f"{w:g}" for w in OMEGAS}][:12]
    assert [float(w) for _, w in table[:4]] == list(OMEGAS)
    assert list(dict.fromkeys(a for a, _ in table)) == ["ddim", "ddim_cfg++", "exp2m_cfg++"]


def test_arms_that_the_curve_lacks_are_named(html):
    assert "ddim_cfg++ is not there at NFE 5: it cannot" in html


def test_without_fid_and_with_bad_images(own):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"standin": False}))
    (own / "images" / "ddim@w5" / "000_0.png").write_bytes(b"cut")
    score.score(own, bootstrap=20)
    html = report.report(own).read_text(encoding="utf-8")
    assert "No FID: no reference given" in html
    assert re.search(r'class="warning">ddim@w5: 1 invalid images \(1 × ', html)
    assert not (own / "figures" / "front.png").exists()


def test_a_single_arm(tmp_path):
    alone = make_run(tmp_path / "alone", arms=("ddim",), omegas=(3.0,), prompts=PROMPTS[:2])
    html = scored(alone).read_text(encoding="utf-8")
    assert "nothing to compare" in html


def test_a_folder_without_current_scores_is_refused(own):
    with pytest.raises(ValueError, match="python -m eval score"):
        report.report(own)
    (own / "results.json").write_text('{"cells": {}}')
    with pytest.raises(ValueError, match="of an earlier version; run 'python -m eval score' again"):
        report.report(own)


def test_command_is_short_for_a_sweep_and_exact_otherwise(run):
    config = json.loads((run / "config.json").read_text())
    text = report.command(config, "run")
    assert "--arms ddim,ddim_cfg++,exp2m_cfg++ --scales 1.5,3,5,7.5" in text
    assert "--limit 4 --seeds 0,1,2 --nfe 20" in text and text.endswith("--out runs/run")
    config["arms"] = config["arms"][:2] + config["arms"][9:10]
    assert "--arms ddim@w1.5,ddim@w3,exp2m_cfg++@w3" in report.command(config, "run")
    assert "--compile" in report.command(config | {"compiled": True}, "run")
    assert "--compile" not in text
    file = Path(__file__).parents[1] / "prompts" / "scenes100.txt"
    config["prompts_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    assert "--prompts prompts/scenes100.txt" in report.command(config, "run")


def test_strengths_whose_points_lie_on_top_of_each_other_share_a_label(run):
    results = json.loads((run / "results.json").read_text())

    def labels(results: dict) -> set[str]:
        return {text.get_text() for text in figures.front(results, size=(4, 4)).axes[0].texts}

    apart = labels(results)
    assert len(apart) == len(OMEGAS)  # a narrow figure labels the focus arm alone
    own = [name for name, c in results["cells"].items() if c["arm"] == results["focus"]]
    last, one = sorted(own, key=lambda name: results["cells"][name]["omega"])[-2:]
    moved = results["cells"][one] | {k: results["cells"][last][k] for k in ("clip", "fid")}
    joined = labels(results | {"cells": results["cells"] | {one: moved}})
    assert len(joined) == len(OMEGAS) - 1
    assert f"{results['cells'][last]['omega']:g}, {moved['omega']:g}" in joined


def test_fronts_of_several_runs_are_panels_in_which_an_arm_looks_the_same(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    cells = {key: cell for key, cell in results["cells"].items() if cell["arm"] != "ddim"}
    runs = {"all": results, "without one": results | {"cells": cells}}
    panels = figures.fronts(runs).axes
    assert [axes.get_title().split(":")[0] for axes in panels] == list(runs)
    looks = [
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
        for axes in panels
    ]
    assert looks[1].keys() == looks[0].keys() - {"ddim"}
    assert all(looks[0][arm] == look for arm, look in looks[1].items())
    assert main(["claim", str(run), "--fronts", str(tmp_path / "fronts.png")]) == 0
    assert (tmp_path / "fronts.png").read_bytes()[:4] == b"\x89PNG"
    bare = {key: cell | {"fid": None} for key, cell in cells.items()}
    with pytest.raises(ValueError, match="bare was scored without FID; it has no front"):
        figures.fronts({"bare": results | {"cells": bare}})


def test_a_command_says_where_a_path_is_missing(run):
    """No path of the machine is in a run's files; what would not be found is marked as such."""
    config = json.loads((run / "config.json").read_text())
    region = {"sampler": "region", "arm": "mine[units=omega]", "key": "mine[units=omega]@w3"}
    arms = [{**config["arms"][0], **region}]
    changed = {"model": "mymodel", "prompts_file": "own.txt", "arms": arms}
    words = shlex.split(report.command(config | changed | {"arms": arms}, "run"))
    for flag, due in (
        ("--model", "PATH/TO/mymodel"),
        ("--prompts", "PATH/TO/own.txt"),
        ("--arms", "mine=region:PATH/TO/FILE.py[units=omega]@w3"),
    ):
        assert words[words.index(flag) + 1] == due
    (arm,) = parse_arms(due, (), {})
    assert arm.label == "mine[units=omega]"
    real = {"model": "sd15", "standin": False, "prompts_file": "coco100.txt"}
    hub, folder = {"sha256": None}, {"sha256": "1"}  # a folder that is called like the hub's
    for own, due in ((hub, "sd15"), (folder, "PATH/TO/sd15")):
        words = shlex.split(report.command(config | real | own, "run"))
        assert words[words.index("--model") + 1] == due
        assert words[words.index("--prompts") + 1] == "PATH/TO/coco100.txt"  # another text


def test_a_command_scores_as_the_results_were_scored(own, tmp_path):
    folder = tmp_path / "scorer"
    folder.mkdir()
    make_reference(tmp_path / "coco.npz")
    results = score.score(own, str(folder), str(tmp_path / "coco.npz"), 50, "ViT-B-16/laion")
    config = json.loads((own / "config.json").read_text())
    words = "--scorer PATH/TO/scorer --second-scorer ViT-B-16/laion --reference PATH/TO/coco.npz"
    assert f"{words} --bootstrap 50 --out" in report.command(config, "run", results)
    assert str(tmp_path) not in json.dumps(results)
    named = {"options": {"reference": "standin-domain"}}
    assert " --reference standin-domain " in report.command(config, "run", named)
    plain = score.score(own)
    assert report.command(config, "run", plain) == report.command(config, "run")


def test_an_arm_s_rows_are_those_of_its_plan_or_its_approximation(schedule):
    """At ω = 1 an evaluation needs one row; without a plan, in a region, both are asked for."""
    plans = {w: json.loads(compile_plan("ddim", schedule, 6, omega=w).to_json()) for w in (1, 3)}
    near = {"whole": 3, "rows": 9}
    assert report.unet_rows({"plan": plans[3]}, 6) == report.unet_rows({}, 6) == 12
    assert report.unet_rows({"plan": plans[1]}, 6) == 6
    assert report.unet_rows({"plan": plans[3], "approximation": near}, 6) == 9
    arms = [{"arm": "a", "key": f"a@w{w}", "plan": plan} for w, plan in plans.items()]
    arms.append({"arm": "b", "key": "b@w3", "plan": plans[3], "approximation": near})
    results = {"cells": {e["key"]: {"arm": e["arm"], "omega": 1, "n": 1} for e in arms}}
    rows = report.cost_rows(results, {"arms": arms, "nfe": 6}, {})
    assert [row[:3] for row in rows] == [["a", "6", "6–12"], ["b", "6 (3 whole)", "9"]]


def test_cell_words():
    assert report.word("+1 [0, 2] not distinguishable") == "not-distinguishable"
    assert report.word("invalid") == "invalid"
    assert report.word("12.3") == ""
    assert report.short("+1 [0, 2] not distinguishable") == "+1 [0, 2] ≈"
