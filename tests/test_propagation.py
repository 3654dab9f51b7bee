"""Approximated UNets: equal to the network where nothing is reused, and reusing what they say."""

from __future__ import annotations

import pytest
import torch
from approximate_runs import exact, latents, standin
from diffusers import UNet2DConditionModel

from pipelines.propagation import Cached, Gated, Propagated, Whole
from pipelines.unet_parts import UNetParts

# --- nothing reused: the network itself -----------------------------------------------------------


@pytest.mark.parametrize("name", ["sd15", "sd20", "sdxl"])
@pytest.mark.parametrize("text", ["propagate[keys=uniform:1]", "cache[keys=uniform:1,depth=2]"])
def test_when_every_step_is_a_key_the_result_is_the_exact_one_bit_for_bit(name, text):
    assert torch.equal(latents(standin(name), text), exact(standin(name)))


def tiny(**options) -> UNet2DConditionModel:
    torch.manual_seed(0)
    defaults = {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 8,
        "attention_head_dim": (2, 4, 4),
        "norm_num_groups": 8,
        "layers_per_block": 2,
    }
    return UNet2DConditionModel(**(defaults | options)).eval()


@pytest.mark.parametrize("size", [(8, 8), (12, 10), (7, 9)])
@torch.no_grad()
def test_parts_compose_to_the_forward_pass_at_any_size(size):
    """SDXL's block types, and sizes that the stock network only reaches by resized upsampling."""
    unet = tiny(transformer_layers_per_block=(1, 1, 2), use_linear_projection=True)
    z, text, t = torch.randn(2, 4, *size), torch.randn(2, 5, 8), torch.tensor(321.5)
    (out,) = Whole(UNetParts(unet), t[None])(z, t, text)
    assert torch.equal(out, unet(z, t, text).sample)


@pytest.mark.parametrize(
    ("unet", "named"),
    [
        (lambda: tiny(class_embed_type="timestep"), "class_embed_type='timestep'"),
        (lambda: tiny(center_input_sample=True), "center_input_sample=True"),
        (
            lambda: tiny(down_block_types=("AttnDownBlock2D",) * 3, attention_head_dim=4),
            "AttnDownBlock2D",
        ),
        (lambda: tiny(mid_block_type="UNetMidBlock2D"), "UNetMidBlock2D"),
        (lambda: torch.nn.Identity(), "Identity"),
    ],
)
def test_other_networks_are_refused_in_one_line(unet, named):
    with pytest.raises(ValueError, match=named) as caught:
        UNetParts(unet())
    assert "\n" not in str(caught.value)


def test_freeu_is_refused():
    unet = tiny()
    unet.enable_freeu(0.9, 0.2, 1.2, 1.4)
    with pytest.raises(ValueError, match="disable_freeu"):
        UNetParts(unet)


# --- what is reused, against the stock network with its outputs replaced by hooks -----------------


def replaced_by(outputs: dict) -> list:
    """Make each module return what it is given; return the handles."""

    def hook(output):
        return lambda module, args, kwargs, out: output

    return [m.register_forward_hook(hook(out), with_kwargs=True) for m, out in outputs.items()]


def recorded(unet, modules, call) -> dict:
    found: dict = {}
    handles = [
        m.register_forward_hook(lambda m, a, k, out: found.update({m: out}), with_kwargs=True)
        for m in modules
    ]
    call()
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture
def two_steps():
    """A tiny UNet, two timesteps, two different inputs and a text, 2 rows each."""
    torch.manual_seed(1)
    z = torch.randn(2, 2, 4, 8, 8)
    return tiny(), torch.tensor([700.0, 400.0]), z, torch.randn(2, 5, 8)


@pytest.mark.parametrize("parallel", [True, False])
@torch.no_grad()
def test_propagation_feeds_the_keys_encoder_to_the_decoder_of_a_later_time(two_steps, parallel):
    unet, times, z, text = two_steps
    network = Propagated(UNetParts(unet), times, {0}, parallel)
    outs = [network(z[i], times[i], text)[0] for i in (0, 1)]
    modules = [unet.conv_in, *unet.down_blocks, unet.mid_block]
    kept = recorded(unet, modules, lambda: unet(z[0], times[0], text))
    handles = replaced_by(kept)
    expected = unet(z[1], times[1], text).sample
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(outs[0], unet(z[0], times[0], text).sample, rtol=0, atol=1e-6)
    torch.testing.assert_close(outs[1], expected, rtol=0, atol=1e-6)
    assert (network.full, network.partial) == (1, 1)


@pytest.mark.parametrize(("depth", "layer"), [(1, 1), (2, 0)])
@torch.no_grad()
def test_cache_keeps_what_enters_the_outer_units_and_runs_the_rest(two_steps, depth, layer):
    unet, times, z, text = two_steps
    network = Cached(UNetParts(unet), times, {0}, depth)
    outs = [network(z[i], times[i], text)[0] for i in (0, 1)]
    below = unet.up_blocks[-1].resnets[layer]  # its output enters decoder unit depth − 1
    kept = recorded(unet, [below], lambda: unet(z[0], times[0], text))
    handles = replaced_by(kept)
    expected = unet(z[1], times[1], text).sample
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(outs[1], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(outs[1], unet(z[1], times[1], text).sample, atol=1e-4)


@torch.no_grad()
def test_a_gate_runs_the_conditional_row_and_holds_or_drops_the_difference(two_steps):
    unet, times, z, text = two_steps
    z = z[:, :1].repeat(1, 2, 1, 1, 1)  # both rows see the same latent, as in sampling
    first = unet(z[0], times[0], text).sample.chunk(2)
    cond = unet(z[1][1:], times[1], text[1:]).sample
    for delta, uncond in (("hold", cond - (first[1] - first[0])), ("drop", cond)):
        network = Whole(UNetParts(unet), times)
        gated = Gated(network, 1, delta)
        gated(z[0], times[0], text)
        (out,) = gated(z[1], times[1], text)
        torch.testing.assert_close(out, torch.cat([uncond, cond]), rtol=0, atol=1e-6)
        assert network.rows == 3
