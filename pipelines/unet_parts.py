"""A diffusers UNet taken apart at its skip connections, through its public submodules only.

Encoder unit k (conv_in, a resnet with its attention, or a downsampler) makes skip k; decoder unit k
(a resnet with its attention, and the upsampler that may follow) uses it up. So a step may run all
of the network, its decoder alone, or only the outermost units, without a change to diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import nn

Tensor = torch.Tensor
_DOWN = {"CrossAttnDownBlock2D", "DownBlock2D"}
_UP = {"CrossAttnUpBlock2D", "UpBlock2D"}
_MID = {"UNetMidBlock2DCrossAttn"}
# What `UNet2DConditionModel` can do beyond SD 1.x, 2.x and SDXL, and this file cannot
_PLAIN = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None, "text_time"),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
}


class UNetParts:
    """The units of a UNet; composing all of them gives what `unet.forward` returns, bit for bit.

    units  how many skips there are; unit 0 is the outermost
    Raises ValueError, in one line, for a network that is not built as those of SD 1.x, 2.x, SDXL.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        _check(unet)
        self.unet = unet
        self._encoder: list[Callable] = [lambda h, emb, text: unet.conv_in(h)]
        for block in unet.down_blocks:
            self._encoder += [_layer(*pair) for pair in _layers(block)]
            self._encoder += [_plain(down) for down in block.downsamplers or ()]
        inwards: list[tuple[Callable, nn.ModuleList]] = []  # decoder units, the innermost first
        for block in unet.up_blocks:
            layers = [_layer(*pair) for pair in _layers(block)]
            inwards += [(layer, ()) for layer in layers[:-1]]
            inwards.append((layers[-1], block.upsamplers or ()))
        self._decoder = inwards[::-1]
        if len(self._decoder) != len(self._encoder):
            raise ValueError(
                f"the UNet makes {len(self._encoder)} skips and uses {len(self._decoder)}; "
                "only networks that use each once are approximated: leave the approximation out"
            )

    @property
    def units(self) -> int:
        return len(self._encoder)

    def embed(self, z: Tensor, t: Tensor, text: Tensor, added: dict | None) -> Tensor:
        """Return the embedding (R, d) of timesteps t (0-dim or R) and SDXL's added conditions.

        z  (R, 4, h, w), read for its length and dtype alone
        """
        unet = self.unet
        emb = unet.time_embedding(unet.get_time_embed(sample=z, timestep=t), None)
        more = unet.get_aug_embed(emb=emb, encoder_hidden_states=text, added_cond_kwargs=added)
        emb = emb if more is None else emb + more
        return emb if unet.time_embed_act is None else unet.time_embed_act(emb)

    def encode(
        self, z: Tensor, emb: Tensor, text: Tensor, units: int | None = None
    ) -> list[Tensor]:
        """Run the outermost `units` of the encoder (default all); return their skips."""
        skips = []
        for unit in self._encoder[:units]:
            z = unit(z, emb, text)
            skips.append(z)
        return skips

    def middle(self, h: Tensor, emb: Tensor, text: Tensor) -> Tensor:
        """Run the middle block on the innermost skip."""
        return self.unet.mid_block(h, emb, encoder_hidden_states=text)

    def decode(
        self,
        h: Tensor,
        skips: Sequence[Tensor],
        emb: Tensor,
        text: Tensor,
        first: int | None = None,
        last: int = 0,
        seen: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Run decoder units from `first` (default the innermost) outwards to `last`.

        h      the middle block's output, or what enters unit `first`
        skips  at least units 0 … first
        seen   is told (unit, output) of each; for measurements
        """
        first = self.units - 1 if first is None else first
        for k in range(first, last - 1, -1):
            layer, upsamplers = self._decoder[k]
            h = layer(torch.cat([h, skips[k]], dim=1), emb, text)
            for upsampler in upsamplers:
                h = upsampler(h, _size(h, skips[k - 1]))
            if seen is not None:
                seen(k, h)
        return h

    def finish(self, h: Tensor) -> Tensor:
        """Turn the outermost decoder unit's output into the network's, (R, 4, h, w)."""
        unet = self.unet
        if unet.conv_norm_out:
            h = unet.conv_act(unet.conv_norm_out(h))
        return unet.conv_out(h)


def _size(h: Tensor, skip: Tensor) -> Sequence[int] | None:
    """Return the size to upsample to where it is not twice the present one (odd latents)."""
    size = skip.shape[2:]
    return None if list(size) == [2 * n for n in h.shape[2:]] else size


def _layers(block: nn.Module) -> list[tuple[nn.Module, nn.Module | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _layer(resnet: nn.Module, attention: nn.Module | None) -> Callable:
    def run(h: Tensor, emb: Tensor, text: Tensor) -> Tensor:
        h = resnet(h, emb)
        if attention is None:
            return h
        return attention(h, encoder_hidden_states=text, return_dict=False)[0]

    return run


def _plain(module: nn.Module) -> Callable:
    return lambda h, emb, text: module(h)


def _check(unet: nn.Module) -> None:
    remedy = "; leave the approximation out"
    if not isinstance(getattr(unet, "_orig_mod", unet), UNet2DConditionModel):
        raise ValueError(
            f"network {type(unet).__name__} cannot be approximated; only diffusers' "
            f"UNet2DConditionModel as in SD 1.x, 2.x and SDXL can{remedy}"
        )
    for name, allowed in _PLAIN.items():
        if (value := unet.config.get(name)) not in allowed:
            raise ValueError(
                f"UNet config {name}={value!r} cannot be approximated; it may be "
                f"{' or '.join(map(repr, allowed))}{remedy}"
            )
    kinds = [(b, _DOWN) for b in unet.down_blocks] + [(b, _UP) for b in unet.up_blocks]
    for block, known in [*kinds, (unet.mid_block, _MID)]:
        if type(block).__name__ not in known:
            raise ValueError(
                f"UNet block {type(block).__name__} cannot be approximated; known: "
                f"{', '.join(sorted(known))}{remedy}"
            )
    if any(getattr(block, "s1", None) for block in unet.up_blocks):
        raise ValueError("FreeU is on; approximations do not know it: call unet.disable_freeu()")
