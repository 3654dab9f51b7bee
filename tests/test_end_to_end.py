"""`benchmarks.end_to_end` on networks of a toy's size: the ways agree, the page says what was."""

from __future__ import annotations

from argparse import Namespace
from unittest.mock import Mock

import pytest
import torch

from benchmarks import end_to_end, end_to_end_models
from benchmarks.end_to_end_page import write_page

SMALL = {
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
}
POOLED = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 1280 + 6 * 8,
}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    sizes = {"toy": (8, 16, SMALL), "toyxl": (8, 16, {**SMALL, **POOLED})}
    vae = {**end_to_end_models.VAE, "block_out_channels": (8,) * 4, "norm_num_groups": 4}
    monkeypatch.setattr(end_to_end_models, "UNETS", sizes)
    monkeypatch.setattr(end_to_end_models, "VAE", vae)
    for module in (end_to_end, end_to_end_models):
        monkeypatch.setattr(module, "RANDOM", {"toy": "toy", "toyxl": "toyxl"})


@pytest.mark.parametrize("size", ["toy", "toyxl"])
def test_the_stock_pipeline_and_ours_draw_the_same_images(size):
    """Random weights, no text encoder: within 0.02 of a pixel's range, by timesteps' rounding."""
    torch.manual_seed(0)
    model, stock = end_to_end_models.load(size, torch.device("cpu"), torch.float32)
    theirs = stock(["a", "b"], [1, 2], 12)
    own = end_to_end_models.ours(model)(["a", "b"], [1, 2], 12)
    assert theirs.shape == own.shape == (2, 3, 64, 64)
    assert (theirs - own).abs().mean() < 0.02
    assert (own[0] - own[1]).abs().mean() > (theirs - own).abs().mean()


def test_the_stock_pipeline_decodes_in_the_precision_that_was_asked_for():
    """Else diffusers' SDXL pipeline moves its VAE to float32 for every call, at its own expense."""
    model, _ = end_to_end_models.load("toyxl", torch.device("cpu"), torch.float32)
    assert not model.pipe.vae.config.force_upcast


def test_older_diffusers_is_told_the_precision_by_its_own_keyword(monkeypatch):
    load = Mock()
    monkeypatch.setattr(end_to_end_models, "PRECISION", "torch_dtype")
    monkeypatch.setattr(end_to_end_models.DiffusionPipeline, "from_pretrained", load)
    for name in ("StableDiffusion", "stock"):
        monkeypatch.setattr(end_to_end_models, name, Mock())
    end_to_end_models.load("standin-sd15", torch.device("cpu"), torch.bfloat16)
    assert load.call_args.kwargs["torch_dtype"] == torch.bfloat16
    assert "dtype" not in load.call_args.kwargs


def test_a_measurement_becomes_a_page(tmp_path):
    args = Namespace(dtype=None, nfe=2, batches=[1, 2], repeats=2, compile=False)
    report = end_to_end.measure("toy", args, torch.device("cpu"))
    assert {len(taken) for taken in report["seconds"].values()} == {2}
    (tmp_path / "end_to_end").mkdir()
    (tmp_path / "end_to_end" / "toy-cpu.json").write_text(end_to_end.json.dumps(report))
    page = write_page(tmp_path)
    assert "## toy (random weights, time only)" in page and "| 2 | " in page
    assert "No GPU was there" in page
    assert (tmp_path / "end_to_end.png").stat().st_size > 1000
