"""Images that cannot be scored are recorded with their reason when they are drawn."""

from __future__ import annotations

import pytest
import torch
from eval_double import Double, draw, place, request, spoil

from eval import records
from eval.checks import FLAT, NOT_FINITE


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


def test_bad_images_are_recorded_and_do_not_loop(folder):
    outcome, _ = draw(request(folder, arms="ddim@3"), Double(spoil))
    expected = {
        "ddim@w3": [
            {"file": "001_0.png", "reason": FLAT},
            {"file": "001_1.png", "reason": NOT_FINITE},
            {"file": "001_5.png", "reason": NOT_FINITE},
        ]
    }
    assert records.invalid(outcome.folder) == expected
    names = {p.name for p in (outcome.folder / "images" / "ddim@w3").iterdir()}
    assert "001_0.png" in names and not names & {"001_1.png", "001_5.png"}
    assert outcome.invalid == ["ddim@w3: 1 constant image, 2 " + NOT_FINITE]
    again, double = draw(request(folder, arms="ddim@3"), Double(spoil))
    assert double.batches == [] and again.invalid == outcome.invalid


def test_a_batch_that_comes_out_well_the_second_time_is_cleared(folder):
    outcome, _ = draw(request(folder, arms="ddim@3"), Double(spoil))
    (outcome.folder / "images" / "ddim@w3" / "001_0.png").unlink()  # of the first batch
    draw(request(folder, arms="ddim@3"))
    kept = records.invalid(outcome.folder)["ddim@w3"]
    assert [entry["file"] for entry in kept] == ["001_1.png", "001_5.png"]  # of the second


def test_images_of_a_wrong_size_are_recorded_and_not_written(folder):
    class Wide(Double):
        def generate(self, plan, prompts, seeds, null_prompt=""):
            latents, images = super().generate(plan, prompts, seeds)
            return latents, torch.cat([images, images], dim=-1)

    outcome, _ = draw(request(folder, arms="ddim@3"), Wide())
    assert outcome.invalid == ["ddim@w3: 9 32×16 pixels, not 16×16, no image written"]
    assert not list(outcome.folder.rglob("*.png"))
    assert draw(request(folder, arms="ddim@3"), Wide())[1].batches == []


def test_a_picture_drawn_for_two_prompts_is_recorded_for_both(folder):
    def repeat(batch, latents, images):
        for row in range(len(batch)):  # three seeds of each prompt
            images[row] = torch.rand(images[row].shape, generator=torch.manual_seed(row % 3))

    outcome, _ = draw(request(folder, arms="ddim@3", batch=9), Double(repeat))
    reasons = {e["file"]: e["reason"] for e in records.invalid(outcome.folder)["ddim@w3"]}
    assert len(reasons) == 9 and reasons["000_5.png"] == "the same pixels as 001_5.png"
    assert reasons["002_5.png"] == "the same pixels as 000_5.png"
    assert outcome.invalid == ["ddim@w3: 9 the same pixels as another"]
