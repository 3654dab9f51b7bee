"""Count what Stable Diffusion's networks need, without their weights: parameters, FLOPs, memory.

    python -m benchmarks.sizes
    python -m benchmarks.sizes --markdown > docs/results/sizes.md

The networks are built from their published configurations on the "meta" device, which knows shapes
and no numbers. FLOPs are PyTorch's own count of one guided evaluation (both rows). Peak memory is
the weights plus the most bytes alive at once in float16, as tensors are freed; a real allocator
and its kernels' workspaces come on top. Seconds are the FLOPs over --rate, what a GPU is assumed to
sustain. These are counts, not measurements of a GPU.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

UNETS = {  # name: (side of the latent, context width, options of UNet2DConditionModel)
    "SD 1.5": (64, 768, {"attention_head_dim": 8}),
    "SD 2.0 (768-v)": (
        96,
        1024,
        {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    ),
    "SDXL": (
        128,
        2048,
        {
            "attention_head_dim": (5, 10, 20),
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
}
TOKENS = 77
TEXT_PARAMETERS = {  # of the text encoders, from their model cards
    "SD 1.5": 123.1e6,
    "SD 2.0 (768-v)": 340.4e6,
    "SDXL": 123.1e6 + 694.7e6,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}


class FusedAttention(TorchFunctionMode):
    """Let attention allocate its output alone, as the fused kernels of a GPU do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class PeakBytes(TorchDispatchMode):
    """Follow the storages that operators make, and keep the most bytes alive at once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._weights = [p.untyped_storage() for p in network.parameters()]  # views of them: free
        self._seen = {storage._cdata for storage in self._weights}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


def measure(network: nn.Module, run: Callable[[], object]) -> tuple[float, int]:
    """Return the FLOPs of a call and the most bytes that it keeps alive beside the weights."""
    with FlopCounterMode(display=False) as flops:
        run()
    with FusedAttention(), PeakBytes(network) as memory:
        run()
    return flops.get_total_flops(), memory.peak


def count(name: str, batch: int) -> dict[str, float]:
    """Return what `batch` images of one model take, in G parameters, TFLOP and GiB."""
    side, width, options = UNETS[name]
    with torch.device("meta"), torch.no_grad():
        torch.set_default_dtype(torch.float16)
        try:
            unet = UNet2DConditionModel(cross_attention_dim=width, **options).eval()
            vae = AutoencoderKL(**VAE).eval()
            z = torch.empty(2 * batch, 4, side, side)
            context = torch.empty(2 * batch, TOKENS, width)
            added = None
            if "addition_embed_type" in options:
                added = {
                    "text_embeds": torch.empty(2 * batch, 1280),
                    "time_ids": torch.empty(2 * batch, 6),
                }
            t = torch.empty((), dtype=torch.float32)
            step, live = measure(unet, lambda: unet(z, t, context, added_cond_kwargs=added))
            decode, live_vae = measure(vae, lambda: vae.decode(z[:batch]))
        finally:
            torch.set_default_dtype(torch.float32)
    parameters = [sum(p.numel() for p in net.parameters()) for net in (unet, vae)]
    total = sum(parameters) + TEXT_PARAMETERS[name]
    return {
        "unet": parameters[0] / 1e9,
        "all": total / 1e9,
        "weights": 2 * total / 2**30,
        "step": step / 1e12,
        "twenty": (20 * step + decode) / 1e12,
        "unet_live": live / 2**30,
        "vae_live": live_vae / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", default="1,8", help="images, with commas")
    parser.add_argument("--rate", type=float, default=100.0, help="TFLOP/s sustained (default 100)")
    parser.add_argument("--markdown", action="store_true", help="print a page for the docs")
    args = parser.parse_args()
    if args.markdown:
        print("# What the real networks need\n\nCounted by `python -m benchmarks.sizes --markdown`")
        print("on shapes alone, without weights or a GPU: arithmetic, not a measurement.\n")
    head = (
        "model", "images", "UNet, G", "all, G", "weights, GiB", "TFLOP per evaluation",
        "TFLOP for NFE 20 + decode", f"s at {args.rate:g} TFLOP/s",
        "UNet alive, GiB", "VAE alive, GiB",
    )  # fmt: skip
    print("| " + " | ".join(head) + " |\n|---" + "|--:" * (len(head) - 1) + "|")
    for name in UNETS:
        for batch in map(int, args.batch.split(",")):
            c = count(name, batch)
            print(
                f"| {name} | {batch} | {c['unet']:.3f} | {c['all']:.2f} | {c['weights']:.1f} | "
                f"{c['step']:.2f} | {c['twenty']:.0f} | "
                f"{c['twenty'] / args.rate:.2f} | {c['unet_live']:.2f} | "
                f"{c['vae_live']:.2f} |"
            )


if __name__ == "__main__":
    main()
