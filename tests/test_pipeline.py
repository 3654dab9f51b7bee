"""The whole job on the trained stand-in: sample, score, report, as `run_demo.sh` does it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main

ROOT = Path(__file__).parents[1]
ARMS = "dpm2m,exp2m_cfg++"


def command(out: Path) -> list[str]:
    return [
        "run", "--model", "standin-sd15", "--prompts", str(ROOT / "prompts" / "scenes_dev40.txt"),
        "--limit", "6", "--seeds", "900", "--nfe", "5", "--scales", "1.5,3", "--arms", ARMS,
        "--batch", "3", "--bootstrap", "50", "--out", str(out),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    assert main(command(out)) == 0
    return out


def test_every_file_that_the_readme_promises_is_there(run):
    for name in ("config.json", "env.json", "results.json", "results.csv", "per_prompt.csv"):
        assert (run / name).stat().st_size > 0
    for name in ("front.png", "grid.png", "scale.png"):
        assert (run / "figures" / name).stat().st_size > 5_000
    assert len(list((run / "images").glob("*/*.png"))) == 2 * 2 * 6


def test_results_are_stamped_complete_and_sane(run):
    results = json.loads((run / "results.json").read_text())
    assert results["stamp"] == "stand-in standin-sd15: not SD numbers"
    assert results["focus"] == "exp2m_cfg++"
    assert len(results["cells"]) == 4
    for cell in results["cells"].values():
        assert cell["valid"]
        assert cell["n"] == 6
        assert 20 < cell["clip"] < 100  # the pictures have to do with their prompts
        assert cell["fid"] > 0
    with (run / "results.csv").open() as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    for key, cell in results["cells"].items():
        assert float(rows[key]["clip"]) == pytest.approx(cell["clip"])


def test_the_report_is_one_file_with_the_stamp(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "not SD numbers" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_a_picture_can_be_drawn_again_by_itself_from_what_it_carries(run, tmp_path):
    with Image.open(run / "images" / "exp2m_cfg++@w3" / "002_900.png") as image:
        due, texts = np.asarray(image, dtype=int), image.text
    out = tmp_path / "again.png"
    words = ["--method", texts["sampler"], "--omega", "3", "--NFE", texts["nfe"]]
    words += ["--prompt", texts["prompt"], "--seed", texts["noise"], "--out", str(out)]
    assert main(["generate", "--model", "standin-sd15", *words]) == 0
    with Image.open(out) as image:
        assert np.abs(np.asarray(image, dtype=int) - due).max() <= 1  # alone, not in a batch


def test_a_run_with_lost_images_resumes_to_the_same_bytes_and_scores(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    pictures = sorted((again / "images").glob("*/*.png"))
    for path in pictures[1::5]:
        path.unlink()
    pictures[0].write_bytes(pictures[0].read_bytes()[:200])  # a half-written picture
    shutil.rmtree(again / "features")
    assert main(command(again)) == 0
    for path in pictures:
        assert path.read_bytes() == (run / path.relative_to(again)).read_bytes()
    assert (again / "results.json").read_bytes() == (run / "results.json").read_bytes()
