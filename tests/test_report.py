"""The report: self-contained, escaped, readable without what a run may lack."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from synthetic_run import OMEGAS, PROMPTS, extractor, make_reference, make_run

from eval import report, score


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "extractor_for", lambda *_: (extractor(), {}))
    make_reference(tmp_path / "reference.npz")
    return make_run(tmp_path / "run")


def scored(run):
    score.score(run, reference=str(run.parent / "reference.npz"), bootstrap=40)
    return report.report(run)


def test_report_is_one_file_and_says_the_verdict_first(run):
    path = scored(run)
    html = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert not re.search(r'(src|href)="(?!data:)', html) and "http" not in html
    assert html.count("data:image/png;base64,") >= 3
    assert html.index("not SD numbers") < html.index("FID at matched CLIP") < html.index("<img")
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert "<b>red</b>" not in html and "&lt;b&gt;red&lt;/b&gt; circle &amp; square" in html
    assert "python -m eval run --model standin-sd15" in html
    assert str(run.parent) not in html


def test_figures_are_there_and_the_grid_shows_the_images(run):
    scored(run)
    for name in ("front", "scale", "grid"):
        with Image.open(run / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300
    with Image.open(run / "figures" / "grid.png") as image:
        pixels = np.array(image)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_cells_keep_the_order_of_the_run(run):
    html = scored(run).read_text(encoding="utf-8")
    rows = re.findall(r"<tr[^>]*><td>([^<]+)</td><td>([^<]+)</td><td>", html)
    table = [row for row in rows if row[1] in {f"{w:g}" for w in OMEGAS}][:12]
    assert [float(w) for _, w in table[:4]] == list(OMEGAS)
    assert list(dict.fromkeys(a for a, _ in table)) == ["ddim", "ddim_cfg++", "exp2m_cfg++"]


def test_without_fid_and_with_bad_images(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"standin": False}))
    (run / "images" / "ddim@w3" / "000_0.png").write_bytes(b"cut")
    score.score(run, bootstrap=20)
    html = report.report(run).read_text(encoding="utf-8")
    assert "No FID: no reference given" in html
    assert not (run / "figures" / "front.png").exists()


def test_a_single_arm(tmp_path, run):
    alone = make_run(tmp_path / "alone", arms=("ddim",), omegas=(3.0,), prompts=PROMPTS[:2])
    html = scored(alone).read_text(encoding="utf-8")
    assert "nothing to compare" in html


def test_an_unscored_folder_is_refused(run):
    with pytest.raises(ValueError, match="python -m eval score"):
        report.report(run)


def test_command_is_short_for_a_sweep_and_exact_otherwise(run):
    config = json.loads((run / "config.json").read_text())
    text = report.command(config, "run")
    assert "--arms ddim,ddim_cfg++,exp2m_cfg++ --scales 1.5,3,5,7.5" in text
    assert "--limit 4 --seeds 0,1,2 --nfe 20" in text and text.endswith("--out runs/run")
    config["arms"] = config["arms"][:2] + config["arms"][9:10]
    assert "--arms ddim@w1.5,ddim@w3,exp2m_cfg++@w3" in report.command(config, "run")


def test_cell_words():
    assert report.word("+1 [0, 2] not distinguishable") == "not-distinguishable"
    assert report.word("better at 2 of 5 levels") == "better"
    assert report.word("mixed: better at 1") == "mixed"
    assert report.word("12.3") == ""
