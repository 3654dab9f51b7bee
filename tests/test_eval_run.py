"""The drawing side of the evaluation, with a model double: no weights, no network.

The properties that matter: a run that was killed, or lost files, ends with the bytes of one that
was not; nothing is drawn twice; and what cannot be scored is recorded, never silently kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from eval_double import SIDE, Double, draw, place, request, spoil
from PIL import Image

from eval.folder import read_json
from eval.run import FLAT, NOT_FINITE

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


def contents(out: Path) -> dict[str, bytes]:
    """Every file that must not depend on how a run was interrupted."""
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name not in ("timing.json", "env.json")
    }


# --- running and resuming ------------------------------------------------------------------------


def test_a_run_draws_every_image_once_and_describes_itself(folder):
    outcome, double = draw(request(folder))
    keys = ["ddim@w3", "ddim@w7.5", "ddim_cfg++@l0.6"]
    assert (outcome.drawn, outcome.kept, outcome.invalid) == (27, 0, [])
    assert [len(batch) for batch in double.batches] == [4, 4, 1] * 3
    assert double.batches[0][:3] == [("a red circle", seed) for seed in (0, 1, 5)]
    config = json.loads((outcome.folder / "config.json").read_text())
    assert [arm["key"] for arm in config["arms"]] == keys
    assert [arm["omega"] for arm in config["arms"]][:2] == [3.0, 7.5]
    assert config["standin"] is True and config["model"] == "tiny" and config["size"] == [SIDE] * 2
    assert config["arms"][0]["plan"] and len(config["sha256"]) == 64
    assert config["prompts"] == ["a red circle", "a blue square", "ein grüner Ω"]
    for key in keys:
        names = sorted(p.name for p in (outcome.folder / "images" / key).iterdir())
        assert names == sorted(f"{i:03d}_{s}.png" for i in range(3) for s in (0, 1, 5))
    with Image.open(outcome.folder / "images" / keys[2] / "002_5.png") as image:
        assert image.text["prompt"] == "ein grüner Ω" and image.text["seed"] == "5"
        assert image.text["arm"] == keys[2] and image.text["scale"] == "0.6"
        assert image.text["model"] == "tiny" and image.text["nfe"] == "4"
    timing = json.loads((outcome.folder / "timing.json").read_text())
    assert list(timing) == keys and all(seconds >= 0 for seconds in timing.values())
    assert json.loads((outcome.folder / "env.json").read_text())["torch"] == torch.__version__


def test_the_same_command_twice_draws_nothing(folder):
    first, _ = draw(request(folder))
    before = contents(first.folder)
    again, double = draw(request(folder))
    assert (again.drawn, again.kept, double.batches) == (0, 27, [])
    assert contents(again.folder) == before


def test_lost_truncated_and_foreign_images_are_drawn_again_with_their_batch(folder):
    first, _ = draw(request(folder))
    before = contents(first.folder)
    images = first.folder / "images"
    (images / "ddim@w3" / "000_1.png").unlink()
    cut = images / "ddim@w7.5" / "001_5.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    (images / "ddim_cfg++@l0.6" / "002_5.png").write_bytes(
        (images / "ddim@w3" / "002_5.png").read_bytes()  # a valid image of another arm
    )
    (images / "ddim@w3" / "000_0.png.tmp").write_bytes(b"left by a kill")
    again, double = draw(request(folder))
    assert again.drawn == 4 + 4 + 1 and len(double.batches) == 3
    assert contents(again.folder) == before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from eval_double import draw, request
import eval.images

def replace(source, target, left=[{writes}], rename=os.replace):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(source, target)

eval.images.os.replace = replace
draw(request(Path({folder!r}), out=Path({out!r})))
"""


def test_killed_and_restarted_run_equals_an_uninterrupted_one(folder):
    killed, whole = folder / "killed", folder / "whole"
    paths = [str(ROOT), str(ROOT / "tests")]
    script = KILLED.format(paths=paths, writes=20, folder=str(folder), out=str(killed))
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert 9 < len(list(killed.rglob("*.png"))) < 27 and list(killed.rglob("*.png.tmp"))
    assert 0 < draw(request(folder, out=killed))[0].kept < 27
    assert draw(request(folder, out=whole))[0].drawn == 27
    assert contents(killed) == contents(whole)


def test_a_run_stopped_before_any_of_its_writes_resumes_to_the_same_bytes(folder, monkeypatch):
    rename, left = os.replace, 0

    def stop(source, target):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        rename(source, target)

    def small(out: str):
        return request(folder, arms="ddim@3", seeds=(0, 1, 5), out=folder / out)

    whole = contents(draw(small("whole"), Double(spoil))[0].folder)
    for writes in range(14):
        left = writes
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("eval.images.os.replace", stop)
            draw(small(str(writes)), Double(spoil))
        assert contents(draw(small(str(writes)), Double(spoil))[0].folder) == whole


def test_other_settings_refuse_to_resume_and_are_named(folder):
    draw(request(folder))
    with pytest.raises(ValueError, match=r"nfe: 4, now 5.*another --out"):
        draw(request(folder, nfe=5))
    with pytest.raises(ValueError, match=r"seeds differ: 3, now 2"):
        draw(request(folder, seeds=(0, 1)))
    with pytest.raises(ValueError, match=r"without ddim@w7.5, with ddim@w9"):
        draw(request(folder, scales=(3.0, 9.0)))
    with pytest.raises(ValueError, match=r"batch: 4, now 2"):
        draw(request(folder, batch=2))
    (folder / "tiny" / "unet" / "config.json").write_text('{"changed": 1}')
    with pytest.raises(ValueError, match=r"sha256: "):
        draw(request(folder))


def test_a_run_that_drew_nothing_yet_takes_other_settings(folder):
    def burst(batch, latents, images):
        raise torch.OutOfMemoryError

    with pytest.raises(ValueError, match=r"4 images at once do not fit .* a smaller --batch"):
        draw(request(folder), Double(burst))
    outcome, _ = draw(request(folder, batch=2))
    assert outcome.drawn == 27
    assert json.loads((outcome.folder / "config.json").read_text())["batch"] == 2


def test_a_comment_in_the_prompt_file_does_not_stop_a_resume(folder):
    draw(request(folder))
    prompts = folder / "prompts.txt"
    prompts.write_text("# another word\n" + prompts.read_text())
    assert draw(request(folder))[0].drawn == 0


def test_a_folder_with_other_things_is_refused(folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        draw(request(folder))


def test_a_changed_environment_is_noted_and_kept(folder):
    outcome, _ = draw(request(folder))
    path = outcome.folder / "env.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 99}))
    again, _ = draw(request(folder))
    assert "another threads" in again.notes[0]
    assert json.loads(path.read_text())["earlier"][0]["threads"] == 99


# --- what cannot be scored -----------------------------------------------------------------------


def test_bad_images_are_recorded_and_do_not_loop(folder):
    outcome, _ = draw(request(folder, arms="ddim@3"), Double(spoil))
    expected = {
        "ddim@w3": [
            {"file": "001_0.png", "reason": FLAT},
            {"file": "001_1.png", "reason": NOT_FINITE},
            {"file": "001_5.png", "reason": NOT_FINITE},
        ]
    }
    assert json.loads((outcome.folder / "invalid.json").read_text()) == expected
    names = {p.name for p in (outcome.folder / "images" / "ddim@w3").iterdir()}
    assert "001_0.png" in names and not names & {"001_1.png", "001_5.png"}
    assert len(outcome.invalid) == 1 and "1 constant image, 2 NaN" in outcome.invalid[0]
    again, double = draw(request(folder, arms="ddim@3"), Double(spoil))
    assert double.batches == [] and again.invalid == outcome.invalid


def test_a_batch_that_comes_out_well_the_second_time_is_cleared(folder):
    outcome, _ = draw(request(folder, arms="ddim@3"), Double(spoil))
    (outcome.folder / "images" / "ddim@w3" / "001_0.png").unlink()
    draw(request(folder, arms="ddim@3"))
    kept = read_json(outcome.folder / "invalid.json")["ddim@w3"]
    assert [r["file"] for r in kept] == ["001_1.png", "001_5.png"] or kept == [
        {"file": "001_5.png", "reason": NOT_FINITE}
    ]


def test_an_arm_that_spends_more_than_its_budget_fails(folder):
    with pytest.raises(ValueError, match=r"'ddim@w3' spent 5 evaluations on a batch, not 4"):
        draw(request(folder), Double(cost=1))
    assert not list((folder / "run").rglob("*.png"))


def test_an_option_that_the_sampler_lacks_names_the_arm(folder):
    with pytest.raises(ValueError, match=r"arm 'ddim\[wobble=3\]@w3': "):
        draw(request(folder, arms="ddim[wobble=3]"))


def test_one_grid_for_all_arms_leaves_an_arms_own_grid(folder):
    outcome, _ = draw(request(folder, arms="ddim,ddim[grid=leading]", grid="karras"))
    config = json.loads((outcome.folder / "config.json").read_text())
    plain, own = config["arms"][0], config["arms"][2]
    assert config["grid"] == "karras" and own["key"] == "ddim[grid=leading]@w3"
    assert plain["plan"] != own["plan"]
