"""Noise: one generator per image, so an image depends on its prompt and its seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """Return one CPU generator per seed; the same seeds give the same noise on every device."""
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def standard_normal(
    shape: Sequence[int],
    sources: Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Draw (B, …) standard normal noise, image k from sources[k] alone, in float32."""
    if len(sources) != shape[0]:
        raise ValueError(f"{len(sources)} generators for a batch of {shape[0]}; pass one per image")
    rows = [
        torch.randn(tuple(shape[1:]), generator=g, device=g.device, dtype=torch.float32)
        for g in sources
    ]
    return torch.stack(rows).to(device=device, dtype=dtype)
