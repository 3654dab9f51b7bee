"""Coupled edits: the given picture is told on the way what it is, beside its edit.

Inverting a picture under its own words and sampling under others draws a picture of the other
words, wherever they put it. Here two states run side by side, with the same noise and one plan:

    x_s = x_0 + σ·n            the given picture, noised anew at every level, under its own words
    x_t = x_0 + δ + σ·n        its edit, under the target words

and δ takes the difference of the two steps, δ' = step(x_t) − step(x_s). This is FlowEdit
(arXiv:2412.08629) in variance-exploding units, and, with the step's residual read as noise, an
edit-friendly DDPM inversion (arXiv:2304.06140). Equal words leave δ = 0, whatever the network.
On the way the edit attends where the picture does (`shared_attention`), and δ stays inside the
region that the two prompts disagree on (`changing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from pipelines.latent_model import LatentModel, each, texts_of
from pipelines.network import Conditioned
from samplers import Plan, generators, standard_normal
from samplers.schedule import alpha_of

REGION = 0.2  # of the largest disagreement: above it a cell belongs to what changes
LOOKS = 4  # evaluations that find the region


class CoupledEdit(LatentModel):
    """The part of a solver that edits; model files add the words."""

    def coupled(
        self,
        plan: Plan,
        z0: torch.Tensor,
        model: Conditioned,
        seeds: Sequence[int | None],
        callback_fn: Callable | None = None,
    ) -> torch.Tensor:
        """Return the edited latents (N, 4, h, w) of given ones, z0.

        model        of 2·N prompts: sources, then targets
        seeds        one per image, for the noise n; None draws one from torch's global generator
        callback_fn  as for `run`; it sees the edits alone

        Each of the plan's evaluations has 2·N guided rows, so that NFE of them cost what NFE steps
        of inversion and NFE of sampling do; finding the region takes `LOOKS` more, of the prompts
        alone.
        """
        z0 = z0.float()
        drawn = [torch.randint(2**62, ()).item() if seed is None else seed for seed in seeds]
        own = generators(drawn)

        def noised(sigma: float) -> torch.Tensor:
            noise = standard_normal(z0.shape, own, z0.device)
            return (z0 + sigma * noise) * alpha_of(sigma)

        def couple(step: int, t: Any, seen: dict[str, Any]) -> dict[str, Any]:
            given = noised(plan.rows[step].carry.sigma)
            edits = {"z0t": z0, "zt": given}
            edits = {k: v + region * _gained(seen[k]) for k, v in edits.items()}
            if callback_fn is not None:
                edits |= callback_fn(step, t, {**edits, "decode": self.decode}) or {}
            last = step == plan.nfe - 1
            state = torch.cat([given, edits["z0t" if last and callback_fn else "zt"]])
            return {"zt": state, "z0t": state}  # `run` takes the last z0t for the result

        region = self.changing(z0, model, noised)
        first = noised(plan.rows[0].sigma)
        with shared_attention(self.unet, len(z0)):
            # both halves start alike, so that a plan's own noise cancels in the difference
            out = self.run(plan, torch.cat([first, first]), model, couple)
        return out[len(z0) :]

    def changing(
        self, z0: torch.Tensor, model: Conditioned, noised: Callable[[float], torch.Tensor]
    ) -> torch.Tensor:
        """Return 1 where the prompts disagree about z0 and 0 elsewhere, (N, 1, h, w).

        As DiffEdit's mask (arXiv:2210.11427): the noise that the two prompts see in z0 at half of
        the timesteps, compared over several draws. Nothing disagrees where the words are the same.
        """
        half = (self.schedule.num_timesteps - 1) / 2
        t, sigma = torch.tensor(half, device=z0.device), self.schedule.sigma(half)
        apart = torch.zeros_like(z0[:, :1])
        for _ in range(LOOKS):
            cond = model.cond_row(noised(sigma).repeat(2, 1, 1, 1), t)
            apart += _gained(cond.float()).abs().mean(1, keepdim=True)
        return (apart > REGION * apart.amax((1, 2, 3), keepdim=True)).float()


def _gained(state: torch.Tensor) -> torch.Tensor:
    given, edited = state.chunk(2)
    return edited - given


@contextmanager
def shared_attention(unet: nn.Module, count: int) -> Iterator[None]:
    """Let each edit attend where its source does, within the context.

    Queries and keys of all attention layers, to itself and to words, are the source's, values the
    edit's own (prompt-to-prompt, arXiv:2208.01626, for the whole run): what is drawn changes with
    the words, where it is drawn does not. Batches are blocks of `count` sources and `count` edits.
    """

    def as_source(module: nn.Module, given: Any, out: torch.Tensor) -> torch.Tensor:
        # blocks cut, not a view of another shape: compiled for a second count that never ended
        blocks = out.split(count)
        return torch.cat([source for source in blocks[::2] for _ in range(2)])

    layers = [layer for layer in unet.modules() if isinstance(layer, Attention)]
    hooks = [p.register_forward_hook(as_source) for a in layers for p in (a.to_q, a.to_k)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def doubled(prompt: Sequence[str | Sequence[str]], count: int) -> list[list[str]]:
    """Turn [null, source, target] into [null prompts, prompts] of 2·count rows: sources first."""
    null, source, target = each(texts_of(prompt, "null prompt", "source", "target"), count)
    return [null + null, source + target]
