"""Noise: one generator per image, so an image depends on its prompt and its seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch

from samplers.errors import whole


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """Return one CPU generator per seed; the same seeds give the same noise on every device.

    Raises ValueError for a seed that is no whole number from 0 on.
    """
    whole_seeds = [whole("a seed", seed, 0, 2**64 - 1) for seed in seeds]
    return [torch.Generator("cpu").manual_seed(seed) for seed in whole_seeds]


def generators_of(latents: torch.Tensor) -> list[torch.Generator]:
    """Return one CPU generator per first latent (B, …), seeded by its content.

    So an image's first latent determines all of its noise, and no second seed has to be carried:
    the same latent gives the same image in every batch and every host. Waits for the device, once.
    """
    rows = latents.detach().to("cpu", torch.float32).contiguous().numpy()
    return generators(seed_of(row.tobytes()) for row in rows)


def seed_of(content: bytes) -> int:
    """Return a generator's seed that follows from some bytes, below 2^56."""
    return int.from_bytes(hashlib.sha256(content).digest()[:7], "little")


def one_per_image(sources: Sequence[torch.Generator], count: int) -> None:
    """Raise ValueError unless there is a generator for each of `count` images."""
    if len(sources) != count:
        raise ValueError(f"{len(sources)} generators for a batch of {count}; pass one per image")


def standard_normal(
    shape: Sequence[int],
    sources: Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Draw (B, …) standard normal noise, image k from sources[k] alone, in float32.

    The generators are all of one device. Nothing waits for the device that the noise goes to.
    """
    one_per_image(sources, shape[0])
    place = sources[0].device if sources else torch.device("cpu")
    noise, send = outgoing(shape, place, device)
    for row, generator in zip(noise, sources, strict=True):
        row.normal_(generator=generator)
    return send(noise).to(dtype)


def outgoing(
    shape: Sequence[int], place: torch.device, device: torch.device | str
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Return float32 memory at a place, and how to send it to a device without waiting for that.

    A copy to a GPU waits for it, except from pinned memory.
    """
    device = torch.device(device)
    pinned = device.type == "cuda" and place.type == "cpu"
    memory = torch.empty(tuple(shape), dtype=torch.float32, device=place, pin_memory=pinned)
    return memory, lambda filled: filled.to(device, non_blocking=pinned)
