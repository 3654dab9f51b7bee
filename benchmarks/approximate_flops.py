"""Count what approximations save on Stable Diffusion's UNets, without their weights: FLOPs.

    python -m benchmarks.approximate_flops > docs/results/speed/approximate_flops.md

The networks are built on the "meta" device, as in `benchmarks.sizes`. Counts, not time: a batch of
decoders or a smaller batch after a gate changes how well a GPU is filled.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sizes import TOKENS, UNETS
from pipelines.unet_parts import UNetParts


def shares(name: str) -> dict[str, float]:
    """Return shares of one evaluation's FLOPs: the decoder alone, and the outermost 1 … 3 units."""
    side, width, options = UNETS[name]
    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel(cross_attention_dim=width, **options).eval()
        parts = UNetParts(unet)
        z, text = torch.empty(2, 4, side, side), torch.empty(2, TOKENS, width)
        added = None
        if "addition_embed_type" in options:
            added = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}
        emb = parts.embed(z, torch.empty(()), text, added)
        entering: dict[int, torch.Tensor] = {}  # what enters a decoder unit from below
        with FlopCounterMode(display=False) as encoder:
            skips = parts.encode(z, emb, text)
            middle = parts.middle(skips[-1], emb, text)
        with FlopCounterMode(display=False) as decoder:
            parts.finish(
                parts.decode(
                    middle, skips, emb, text, seen=lambda k, h: entering.update({k - 1: h})
                )
            )
        whole = encoder.get_total_flops() + decoder.get_total_flops()
        found = {"decoder": decoder.get_total_flops() / whole}
        for depth in (1, 2, 3):
            with FlopCounterMode(display=False) as outer:
                shallow = parts.encode(z, emb, text, units=depth)
                below = entering[depth - 1]
                parts.finish(parts.decode(below, shallow, emb, text, first=depth - 1))
            found[f"depth {depth}"] = outer.get_total_flops() / whole
    return found


HEAD = """# What approximations save in FLOPs

Shares of one guided evaluation's FLOPs, counted on shapes by
`python -m benchmarks.approximate_flops`: the decoder alone (what `propagate` runs between keys) and
the outermost units (what `cache` runs). The last columns are the ratios of FLOPs per image with
every second evaluation a key; time can differ either way.

| model | decoder | depth 1 | depth 2 | depth 3 | propagate, every 2nd | cache, depth 1 |
|---|---:|---:|---:|---:|---:|---:|"""


def main() -> None:
    print(HEAD)
    for name in UNETS:
        found = shares(name)
        cells = [f"{100 * share:.1f} %" for share in found.values()]
        cells += [f"{2 / (1 + found[k]):.2f}" for k in ("decoder", "depth 1")]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
