"""The drawing callbacks: which files appear, and that their levels are those of the decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.callbacks import draw_noisy, draw_tweedie


def state(z0t: float, zt: float, batch: int = 1) -> dict:
    """A state of flat latents, with a decoder that only drops a channel."""
    flat = torch.ones(batch, 4, 8, 8)
    return {"z0t": z0t * flat, "zt": zt * flat, "decode": lambda z: z[:, :3]}


def test_each_callback_draws_its_own_latent_and_hands_the_state_on(tmp_path):
    seen = state(0.5, -0.2)
    assert draw_tweedie(tmp_path)(3, 500.0, seen) is seen
    assert draw_noisy(tmp_path)(3, 500.0, seen) is seen
    levels = {p.name: np.unique(np.asarray(Image.open(p))).tolist() for p in tmp_path.iterdir()}
    assert levels == {"x0_0003.png": [191], "xt_0003.png": [102]}  # 127.5·(1 + value), rounded


def test_contrast_is_not_stretched_and_values_outside_are_clipped(tmp_path):
    seen = state(0.0, 0.0)
    seen["z0t"][..., :4], seen["z0t"][..., 4:] = 0.1, 3.0
    draw_tweedie(tmp_path)(0, 1.0, seen)
    assert np.unique(np.asarray(Image.open(tmp_path / "x0_0000.png"))).tolist() == [140, 255]


def test_every_thins_the_steps(tmp_path):
    draw = draw_noisy(tmp_path / "new" / "folder", every=4)
    for step in range(10):
        draw(step, 1.0, state(0.0, 0.0))
    names = sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert names == ["xt_0000.png", "xt_0004.png", "xt_0008.png"]


def test_a_batch_lies_side_by_side(tmp_path):
    draw_tweedie(tmp_path)(0, 1.0, state(0.0, 0.0, batch=3))
    assert Image.open(tmp_path / "x0_0000.png").size == (24, 8)


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    draw = draw_tweedie(tmp_path)
    draw(0, 1.0, state(0.0, 0.0))
    before = (tmp_path / "x0_0000.png").read_bytes()

    def fail(self, data):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        draw(0, 1.0, state(1.0, 0.0))
    assert (tmp_path / "x0_0000.png").read_bytes() == before


@pytest.mark.parametrize("every", [0, -1, 2.5])
def test_every_is_a_positive_number_of_steps(every, tmp_path):
    with pytest.raises(ValueError, match=f"every is {every}; it must be a whole number from 1"):
        draw_tweedie(tmp_path, every=every)
