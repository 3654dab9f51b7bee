"""Networks that reuse features between the evaluations of one run; stand-ins for a UNet's call.

Each is made for one run of one plan, is called once per evaluation, in order, with the rows
[unconditional; conditional], and answers as `unet(…, return_dict=False)` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.unet_parts import UNetParts
from samplers import Plan
from samplers.loop import Model

Tensor = torch.Tensor


class Whole:
    """Every evaluation runs the whole network: the common part of what follows.

    parts      the network
    timesteps  (N,) of the plan's evaluations, on the network's device
    full, partial, rows  evaluations that ran all of the network or a part, and UNet rows, so far
    """

    def __init__(self, parts: UNetParts, timesteps: Tensor) -> None:
        self.parts, self.timesteps = parts, timesteps
        self.index = -1
        self.full = self.partial = self.rows = 0

    @property
    def config(self) -> object:
        return self.parts.unet.config

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        self.index += 1
        if self.index >= len(self.timesteps):
            raise ValueError(
                f"evaluation {self.index + 1} of a plan of {len(self.timesteps)}; "
                "an approximated network serves one run: make a new one"
            )
        self.rows += len(sample)
        return (self._evaluate(sample, encoder_hidden_states, added_cond_kwargs),)

    def _evaluate(self, z: Tensor, text: Tensor, added: dict | None) -> Tensor:
        self.full += 1
        parts = self.parts
        emb = parts.embed(z, self.timesteps[self.index], text, added)
        skips = parts.encode(z, emb, text)
        h = parts.middle(skips[-1], emb, text)
        return parts.finish(parts.decode(h, skips, emb, text))


class Propagated(Whole):
    """Encoder propagation: encoder and middle block run at key steps, the decoder at every step.

    Between keys the decoder sees the last key's features, with its own time embedding (Li et al.
    2024, arXiv:2312.09608, Sec. 3.3; the middle block goes with the encoder, as in their code).
    Its output then depends on nothing that the steps in between find out, whatever the sampler:
    so a key step decodes for all steps up to the next key in one batch.

    keys      evaluations that run the whole network, 0 among them
    parallel  decode ahead; else at each step, which needs less memory and gives the same
    """

    def __init__(
        self, parts: UNetParts, timesteps: Tensor, keys: Collection[int], parallel: bool = True
    ) -> None:
        super().__init__(parts, timesteps)
        self.keys, self.parallel = frozenset(keys), parallel
        self._skips: list[Tensor] = []
        self._middle: Tensor | None = None
        self._ahead: list[Tensor] = []  # outputs of the coming steps, the next one last

    def _evaluate(self, z: Tensor, text: Tensor, added: dict | None) -> Tensor:
        parts, i = self.parts, self.index
        if i not in self.keys:
            self.partial += 1
            return self._ahead.pop() if self.parallel else self._decode(z, text, added, i, i + 1)
        self.full += 1
        emb = parts.embed(z, self.timesteps[i], text, added)
        self._skips = parts.encode(z, emb, text)
        self._middle = parts.middle(self._skips[-1], emb, text)
        if not self.parallel:
            return parts.finish(parts.decode(self._middle, self._skips, emb, text))
        end = min((k for k in self.keys if k > i), default=len(self.timesteps))
        out = self._decode(z, text, added, i, end)
        self._ahead = list(out.chunk(end - i))[::-1]
        return self._ahead.pop()

    def _decode(self, z: Tensor, text: Tensor, added: dict | None, start: int, end: int) -> Tensor:
        """Decode the cached features for evaluations start … end − 1, (end − start)·R rows."""
        n = end - start

        def repeated(x: Tensor) -> Tensor:
            return x if n == 1 else x.repeat(n, *[1] * (x.dim() - 1))

        times = self.timesteps[start:end].repeat_interleave(len(z))
        added = added and {name: repeated(value) for name, value in added.items()}
        text = repeated(text)
        emb = self.parts.embed(repeated(z), times, text, added)
        skips = [repeated(skip) for skip in self._skips]
        return self.parts.finish(self.parts.decode(repeated(self._middle), skips, emb, text))


class Cached(Whole):
    """Deep-feature caching: between keys only the outermost `depth` units run.

    What enters the innermost of them from below is the last key's (Ma et al. 2024, DeepCache,
    arXiv:2312.00858, Eq. 6; its branch 0 is depth 1). The skips are fresh, so unlike with
    propagation the output follows the latent, and steps cannot be decoded ahead.
    """

    def __init__(
        self, parts: UNetParts, timesteps: Tensor, keys: Collection[int], depth: int = 1
    ) -> None:
        super().__init__(parts, timesteps)
        if not 1 <= depth < parts.units:
            raise ValueError(f"depth is {depth}; this UNet allows 1 to {parts.units - 1}")
        self.keys, self.depth = frozenset(keys), depth
        self._deep: Tensor | None = None

    def _evaluate(self, z: Tensor, text: Tensor, added: dict | None) -> Tensor:
        parts, depth = self.parts, self.depth
        emb = parts.embed(z, self.timesteps[self.index], text, added)
        if self.index in self.keys:
            self.full += 1
            skips = parts.encode(z, emb, text)
            h = parts.middle(skips[-1], emb, text)
            self._deep = parts.decode(h, skips, emb, text, last=depth)
        else:
            self.partial += 1
            skips = parts.encode(z, emb, text, units=depth)
        half = self._deep[-len(z) :]  # after a gate: the conditional rows
        return parts.finish(parts.decode(half, skips, emb, text, first=depth - 1))


class Gated:
    """From evaluation `first` on, only the conditional row runs.

    delta  "hold": the unconditional output is the conditional one minus the last difference
           that was seen; "drop": it is the conditional one, so guidance ends (the weight is 1)
    """

    def __init__(self, network: Whole, first: int, delta: str = "hold") -> None:
        self.network, self.first, self.hold = network, first, delta == "hold"
        self._difference: Tensor | None = None

    @property
    def config(self) -> object:
        return self.network.config

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        network, text, added = self.network, encoder_hidden_states, added_cond_kwargs
        if network.index + 1 < self.first:
            (out,) = network(sample, timestep, text, added)
            uncond, cond = out.chunk(2)
            self._difference = cond - uncond if self.hold else None
            return (out,)
        added = added and {name: value.chunk(2)[1] for name, value in added.items()}
        (cond,) = network(sample.chunk(2)[1], timestep, text.chunk(2)[1], added)
        uncond = cond - self._difference if self.hold else cond
        return (torch.cat([uncond, cond]),)


@contextmanager
def rerouted(model: Any, network: Whole | Gated) -> Iterator[None]:
    """Let a loaded model (`LatentModel`) call `network` in its UNet's place."""
    unet = model.unet
    model.unet = network
    try:
        yield
    finally:
        model.unet = unet


def guided(plan: Plan) -> bool:
    """Return whether any evaluation of a plan needs the unconditional row."""
    return any(stage.uncond for stage in plan.program.stages)


def same_rows(network: Model, plan: Plan) -> Model:
    """Return a network that runs the same rows in every evaluation: both, or the conditional one.

    Features of a row that was left out would be missing where they are to be reused.
    """
    if guided(plan):
        return lambda z, t: network(z, t)
    return lambda z, t: (network.cond_row(z, t),) * 2
