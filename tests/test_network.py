"""What a loaded model does to be fast, on the stand-ins: cached texts, single rows, slices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pipelines.latent_model as latent_model
from latent_diffusion import StableDiffusion
from latent_sdxl import SDXL
from pipelines.text_cache import TextCache
from samplers import compile_plan

STANDINS = Path(__file__).parents[1] / "standins"
PROMPTS = ["a large red circle on a grey background", "two small blue squares"]


@pytest.fixture(scope="module", params=["sd15", "sd20", "sdxl"])
def model(request):
    kind = SDXL if request.param == "sdxl" else StableDiffusion
    return kind({"num_sampling": 4}, str(STANDINS / request.param), device="cpu")


def test_one_row_is_the_row_of_both(model):
    """To 1e-4: a batch of another size takes other kernels."""
    network = model.conditioned(PROMPTS)
    z = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(300.0)
    with torch.no_grad():
        uncond, cond = network(z, t)
        for alone, row in ((network.uncond_row(z, t), uncond), (network.cond_row(z, t), cond)):
            torch.testing.assert_close(alone, row, atol=1e-4, rtol=1e-4)
    assert (uncond - cond).abs().max() > 1e-3


def test_rows_are_counted_and_spared(model):
    plan = compile_plan("exp2m_cfg++", model.schedule, 4, omega=3.0, interval=(0.5, 5.0))
    evaluations, rows = model.evaluations, model.unet_rows
    model.generate(plan, PROMPTS, [1, 2])
    assert model.evaluations - evaluations == plan.nfe == 4
    assert model.unet_rows - rows == 2 * plan.unet_rows < 16


def test_gradients_reach_the_latent(model):
    z = torch.randn(1, *model.latent_shape, requires_grad=True)
    model.conditioned(PROMPTS[:1])(z, torch.tensor(300.0))[1].sum().backward()
    assert z.grad.abs().max() > 0


def test_decoding_in_slices_changes_nothing(model, monkeypatch):
    z = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    whole = model.decode(z)
    monkeypatch.setattr(latent_model, "DECODED_AT_ONCE", 2 * 64 * 64)
    torch.testing.assert_close(model.decode(z), whole, atol=1e-5, rtol=1e-5)


def test_texts_are_encoded_once_and_again_after_a_change(model):
    encoder = model.text_encoder if hasattr(model, "text_encoder") else model.text_enc_1
    calls = []
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        model.conditioned(PROMPTS, "a text that nothing else asks for")
        before = len(calls)
        first = model.conditioned(PROMPTS, "a text that nothing else asks for")
        assert before > 0 and len(calls) == before
        weight = next(encoder.parameters())
        with torch.no_grad():
            weight.mul_(1.5)
            changed = model.conditioned(PROMPTS)
            weight.div_(1.5)
        assert len(calls) > before
        assert not torch.equal(changed.c, first.c)
    finally:
        hook.remove()


def test_the_cache_keeps_order_repeats_and_its_size():
    asked = []

    def embed(keys):
        asked.append(list(keys))
        return (torch.tensor([[float(k)] for k in keys]),)

    cache = TextCache(embed, lambda: [], size=2)
    assert cache([3, 1, 3])[0].flatten().tolist() == [3, 1, 3]
    assert cache([1, 2])[0].flatten().tolist() == [1, 2]
    assert cache([1, 3])[0].flatten().tolist() == [1, 3]  # 3, used longest ago, was dropped
    assert asked == [[3], [1], [2], [3]]  # alone, so that no embedding depends on its company


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_compiling_needs_a_compiler(model, monkeypatch, device, variable):
    monkeypatch.setattr(model, "device", torch.device(device))
    monkeypatch.setenv(variable, "no-such-compiler")
    said = f"compiling for {device} needs the compiler 'no-such-compiler', which is not here"
    with pytest.raises(ValueError, match=said):
        model.compile_unet()
    monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"compiler 'g.*install one, set C"):
        model.compile_unet()


@pytest.mark.slow
def test_compiled_images_equal_eager_ones():
    """To 1e-3 of a pixel's range, at two batch sizes."""
    model = StableDiffusion({"num_sampling": 4}, str(STANDINS / "sd15"), device="cpu")
    plan = compile_plan("exp2m_cfg++", model.schedule, 4, omega=3.0)
    eager = model.generate(plan, PROMPTS, [1, 2])[1]
    model.compile_unet()
    torch.testing.assert_close(model.generate(plan, PROMPTS, [1, 2])[1], eager, atol=1e-3, rtol=0)
    single = model.generate(plan, PROMPTS[:1], [1])[1]
    torch.testing.assert_close(single, eager[:1], atol=1e-3, rtol=0)
