"""The drawing side of the evaluation, with a model double: no weights, no network.

The properties that matter: a run that was killed, or lost files, ends with the bytes of one that
was not; nothing is drawn twice; and what cannot be scored is recorded, never silently kept.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from eval_double import SIDE, Double, contents, draw, place, request, spoil
from PIL import Image

from eval.arms import parse_arms
from eval.drawers import drawer
from eval.prompts import noise_seed
from samplers import compile_plan


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


# --- running and resuming ------------------------------------------------------------------------


def test_the_only_gpu_needs_no_number(folder, monkeypatch):
    """torch.cuda.set_device refuses "cuda", which is what is chosen where there is one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    outcome, _ = draw(replace(request(folder), device=None))
    assert outcome.drawn == 27


@pytest.mark.parametrize("sampler", ["exp2m_cfg++", "ddim_cfg++"])
def test_a_lambda_stands_among_the_strengths_where_its_omega_would(sampler):
    """The ω that is noted for a pinned λ draws the same images, by `@w` or in a curve."""
    (pinned,) = parse_arms(f"{sampler}@l0.6", (), {sampler: "cfg++"})
    told = drawer(pinned, Double(), 20).describe()
    again = compile_plan(sampler, Double().schedule, 20, omega=told["omega"])
    assert again.scale == pytest.approx(0.6) == told["scale"]


def test_a_run_draws_every_image_once_and_describes_itself(folder):
    outcome, double = draw(request(folder))
    keys = ["ddim@w3", "ddim@w7.5", "ddim_cfg++@l0.6"]
    assert (outcome.drawn, outcome.kept, outcome.invalid) == (27, 0, [])
    assert [len(batch) for batch in double.batches] == [4, 4, 1] * 3
    texts = ["a red circle", "a blue square", "ein grüner Ω"]
    rows = [(text, noise_seed(text, seed)) for text in texts for seed in (0, 1, 5)]
    for k in range(3):  # every arm from the same noise, every prompt and seed from its own
        assert [row for batch in double.batches[3 * k : 3 * k + 3] for row in batch] == rows
    assert len({noise for _, noise in rows}) == 9
    config = json.loads((outcome.folder / "config.json").read_text())
    assert [arm["key"] for arm in config["arms"]] == keys
    assert [arm["omega"] for arm in config["arms"]][:2] == [3.0, 7.5]
    assert config["standin"] is True and config["model"] == "tiny" and config["size"] == [SIDE] * 2
    assert config["arms"][0]["plan"] and len(config["sha256"]) == 64
    assert config["prompts"] == texts
    for key in keys:
        names = sorted(p.name for p in (outcome.folder / "images" / key).iterdir())
        assert names == sorted(f"{i:03d}_{s}.png" for i in range(3) for s in (0, 1, 5))
    with Image.open(outcome.folder / "images" / keys[2] / "002_5.png") as image:
        assert image.text["prompt"] == "ein grüner Ω" and image.text["seed"] == "5"
        assert image.text["noise"] == str(noise_seed("ein grüner Ω", 5))
        assert image.text["arm"] == keys[2] and image.text["scale"] == "0.6"
        assert image.text["model"] == "tiny" and image.text["nfe"] == "4"
        assert image.text["latent_std"] == "0.5000"
    timing = json.loads((outcome.folder / "timing.json").read_text())
    assert list(timing) == keys and timing[keys[0]]["images"] == 9
    assert timing[keys[0]]["seconds"] > 0 and timing[keys[0]]["at_once"] == [4, 1]
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
    for writes in range(13):
        left = writes
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("eval.images.os.replace", stop)
            draw(small(str(writes)), Double(spoil))
        assert contents(draw(small(str(writes)), Double(spoil))[0].folder) == whole


def test_other_settings_refuse_to_resume_and_are_named(folder):
    draw(request(folder))
    with pytest.raises(ValueError, match=r"nfe: 4, now 5.*another plan for.*another --out"):
        draw(request(folder, nfe=5))
    with pytest.raises(ValueError, match=r"seeds differ: 3, now 2.*seeds and prompts may not"):
        draw(request(folder, seeds=(0, 1)))
    with pytest.raises(ValueError, match=r"batch: 4, now 2"):
        draw(request(folder, batch=2))
    (folder / "tiny" / "unet" / "config.json").write_text('{"changed": 1}')
    with pytest.raises(ValueError, match=r"sha256: "):
        draw(request(folder))


def test_every_pinned_field_is_compared(folder):
    outcome, _ = draw(request(folder, arms="ddim@3"))
    path = outcome.folder / "config.json"
    config = json.loads(path.read_text())
    informative = {"prompts_file", "prompts_sha256"}
    assert {*config} - informative == {
        *("model", "standin", "sha256", "revision", "prediction_type", "dtype", "size", "nfe"),
        *("grid", "batch", "seeds", "noise", "null_prompt", "prompts", "arms"),
    }
    other = {"arms": [config["arms"][0] | {"scale": 9}], "prompts": ["x"], "seeds": [7]}
    for field in config:
        path.write_text(json.dumps(config | {field: other.get(field, "other")}))
        if field in informative:
            draw(request(folder, arms="ddim@3"))
            continue
        with pytest.raises(ValueError, match=rf"other settings \({field}"):
            draw(request(folder, arms="ddim@3"))


def test_arms_and_scales_join_a_run_and_equal_one_that_had_them_at_once(folder):
    draw(request(folder, arms="ddim@w3,ddim_cfg++@0.6", out=folder / "grown"))
    grown, double = draw(request(folder, out=folder / "grown"))  # ddim@w7.5 is new
    whole, _ = draw(request(folder, out=folder / "whole"))
    assert (grown.drawn, grown.kept) == (9, 18) and len(double.batches) == 3
    assert contents(grown.folder) == contents(whole.folder)


def test_arms_that_are_not_asked_for_stay(folder):
    whole, _ = draw(request(folder))
    before = contents(whole.folder)
    again, double = draw(request(folder, arms="ddim@7.5"))
    assert (again.drawn, again.kept, double.batches) == (0, 9, [])
    assert "also holds ddim@w3, ddim_cfg++@l0.6 (2 arms × scales)" in again.notes[0]
    assert contents(whole.folder) == before


def test_a_run_that_drew_nothing_yet_takes_other_settings(folder):
    def burst(batch, latents, images):
        raise torch.OutOfMemoryError

    with pytest.raises(ValueError, match=r"not even one image at once fits into memory"):
        draw(request(folder), Double(burst))
    outcome, _ = draw(request(folder, batch=2, arms="ddim@3"))
    assert outcome.drawn == 9
    config = json.loads((outcome.folder / "config.json").read_text())
    assert config["batch"] == 2 and [arm["key"] for arm in config["arms"]] == ["ddim@w3"]


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


# --- arms ---------------------------------------------------------------------------------------


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
