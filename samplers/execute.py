"""Apply a program's stages to tensors: plain torch, the reference of `samplers.fused`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from samplers.program import Combination, Program, Stage

Draw = Callable[[torch.Tensor], torch.Tensor]  # a tensor → standard normal noise like it
Pair = tuple[torch.Tensor, torch.Tensor]  # the network's (ε_u, ε_c)


def checked_pair(given: object, z: torch.Tensor) -> Pair:
    """Return what a network made of z as its two rows; ValueError for anything but the pair."""
    try:
        uncond, cond = given
    except (TypeError, ValueError):
        raise ValueError(
            f"the network returned a {type(given).__name__}, not the pair (ε_uncond, ε_cond); of a "
            "UNet that was given both rows at once, pass .sample.chunk(2)"
        ) from None
    if not uncond.shape == cond.shape == z.shape:
        raise ValueError(
            f"the network returned shapes {tuple(uncond.shape)} and {tuple(cond.shape)} for an "
            f"input of {tuple(z.shape)}; it must return the pair (ε_uncond, ε_cond)"
        )
    return uncond, cond


class Executor(Protocol):
    """What the loop asks of the arithmetic. States are never overwritten, the ring always is."""

    def advance(
        self, i: int, carry: torch.Tensor, probe: torch.Tensor, eps: Pair, draw: Draw
    ) -> torch.Tensor:
        """Leave the estimates of evaluation i, made at `probe`, in the ring; return the carry."""
        ...

    def look_ahead(self, i: int, carry: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Return the next probe of a stage that has one."""
        ...


class Plain:
    """One operator per term, and none for a term that is zero."""

    def __init__(self, program: Program, like: torch.Tensor):
        self._stages = program.stages
        self._ring = torch.empty((program.slots, *like.shape)).to(like).unbind()

    def advance(
        self, i: int, carry: torch.Tensor, probe: torch.Tensor, eps: Pair, draw: Draw
    ) -> torch.Tensor:
        stage, ring = self._stages[i], self._ring
        uncond, cond = eps
        for slot, a, b in stage.keep:
            if a == 0:
                torch.sub(probe, cond, alpha=b, out=ring[slot])
                continue
            torch.sub(probe, uncond, alpha=a, out=ring[slot])
            if b:
                ring[slot].sub_(cond, alpha=b)
        return self._combine(stage.carry, carry, draw)

    def look_ahead(self, i: int, carry: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._combine(self._stages[i].probe, carry, draw)

    def _combine(self, update: Combination, state: torch.Tensor, draw: Draw) -> torch.Tensor:
        if update.state == 1 and not update.terms:
            return state
        out = state * update.state
        for slot, weight in update.terms:
            out.add_(self._ring[slot], alpha=weight)
        if update.noise:
            out.add_(draw(out), alpha=update.noise)
        return out


def denoised(stage: Stage, probe: torch.Tensor, eps: Pair) -> torch.Tensor:
    """Return the guided clean estimate D_u + ω·Δ that an evaluation at `probe` implies."""
    uncond, cond = (e.to(probe.dtype) for e in eps)
    guided = torch.lerp(uncond, cond, stage.weight)
    return torch.sub(probe, guided, alpha=stage.sigma_vp) / stage.alpha
