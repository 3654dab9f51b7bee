"""The expression of `samplers.fused` as one Triton kernel. Imported only where Triton is used."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit(do_not_specialize=["i", "n"])
def apply(
    out, numbers, carry, probe, uncond, cond, ring, noise, i, n,
    MEMORY: tl.constexpr, WIDTH: tl.constexpr,
    SEEN: tl.constexpr, NOISY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Combine n elements; the estimate (j evaluations ago, r) lies in a ring of MEMORY·WIDTH."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    total = tl.load(numbers) * tl.load(carry + at, mask=inside)
    weights = numbers + 2 + 2 * WIDTH
    for r in tl.static_range(WIDTH):
        slot = ring + ((i % MEMORY) * WIDTH + r) * n + at
        if SEEN:
            estimate = tl.load(probe + at, mask=inside)
            estimate -= tl.load(numbers + 2 + r) * tl.load(uncond + at, mask=inside)
            estimate -= tl.load(numbers + 2 + WIDTH + r) * tl.load(cond + at, mask=inside)
            tl.store(slot, estimate, mask=inside)
        else:
            estimate = tl.load(slot, mask=inside)
        total += tl.load(weights + r) * estimate
    for j in tl.static_range(1, MEMORY):
        for r in tl.static_range(WIDTH):
            slot = ring + (((i + MEMORY - j) % MEMORY) * WIDTH + r) * n + at
            total += tl.load(weights + j * WIDTH + r) * tl.load(slot, mask=inside)
    if NOISY:
        total += tl.load(numbers + 1) * tl.load(noise + at, mask=inside)
    tl.store(out + at, total, mask=inside)


def launch(
    numbers: torch.Tensor,
    carry: torch.Tensor,
    seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    ring: torch.Tensor,
    i: int,
    memory: int,
    width: int,
    noise: torch.Tensor | None,
) -> torch.Tensor:
    """Apply one row of numbers; writes the new estimates into the ring and returns the rest."""
    carry = carry.contiguous()
    out = torch.empty_like(carry)
    probe, uncond, cond = (x.contiguous() for x in seen) if seen else (carry,) * 3
    n = carry.numel()
    with torch.cuda.device_of(carry):  # Triton launches on the current device, whatever it is given
        apply[(triton.cdiv(n, BLOCK),)](
            out, numbers, carry, probe, uncond, cond, ring, carry if noise is None else noise,
            i, n, MEMORY=memory, WIDTH=width,
            SEEN=seen is not None, NOISY=noise is not None, BLOCK=BLOCK,
            enable_fp_fusion=True,  # whatever the default of a version of Triton is
        )  # fmt: skip
    return out
