"""Measure how the UNet's features change from step to step, and choose key steps by it.

As in Faster Diffusion (Li et al. 2024, arXiv:2312.09608, Sec. 3.2 and Fig. 3): encoder features
hardly change between neighbouring steps, decoder features do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pipelines.latent_model import LatentModel
from pipelines.propagation import Whole, rerouted, same_rows
from pipelines.unet_parts import UNetParts
from samplers import Plan, generators, standard_normal, trajectory

Tensor = torch.Tensor


@dataclass(frozen=True)
class FeatureChange:
    """Features over the N evaluations of an exact run, by unit: E0 … the middle M … D0.

    names    U names of units, from the network's input to its output
    encoder  (U,) whether propagation reuses the unit: encoder units and the middle block
    mse      (U, N − 1) mean squared change from one evaluation to the next
    relative (U, N − 1) the same over the mean square of the later one
    norm     (U, N) Frobenius norm per image and row
    between  (N, N) change of the encoder's features from evaluation i to j, relative to their
             mean square, averaged over the units
    """

    names: list[str]
    encoder: np.ndarray
    mse: np.ndarray
    relative: np.ndarray
    norm: np.ndarray
    between: np.ndarray


class _Watched(Whole):
    """Runs the whole network and keeps its features, on the CPU, as precise as the network is."""

    def __init__(self, *args: object, decoder: bool) -> None:
        super().__init__(*args)
        self.features: list[dict[str, Tensor]] = []
        self._decoder = decoder

    def _evaluate(self, z: Tensor, text: Tensor, added: dict | None) -> Tensor:
        parts = self.parts
        emb = parts.embed(z, self.timesteps[self.index], text, added)
        skips = parts.encode(z, emb, text)
        h = parts.middle(skips[-1], emb, text)
        seen = {f"E{k}": skip.cpu() for k, skip in enumerate(skips)}
        seen["M"] = h.cpu()

        def keep(k: int, out: Tensor) -> None:
            if self._decoder:
                seen[f"D{k}"] = out.cpu()

        out = parts.finish(parts.decode(h, skips, emb, text, seen=keep))
        self.features.append(seen)
        return out


@torch.no_grad()
def feature_change(
    model: LatentModel,
    plan: Plan,
    prompts: Sequence[str],
    seeds: Sequence[int],
    decoder: bool = True,
) -> FeatureChange:
    """Make one exact run in one batch and measure the features of all of its evaluations.

    decoder  whether the decoder's are measured, too: `between` needs the encoder's alone, which are
             40 % of them. All evaluations' are kept: of 8 rows of SDXL in float16, 8 GB for 20
    """
    times = torch.tensor([row.timestep for row in plan], dtype=torch.float32, device=model.device)
    watched = _Watched(UNetParts(model.unet), times, decoder=decoder)
    z_T = standard_normal((len(seeds), *model.latent_shape), generators(seeds), model.device)
    network = same_rows(model.conditioned(list(prompts)), plan)
    with rerouted(model, watched):
        for _ in trajectory(network, z_T, plan):
            pass
    steps = watched.features
    names = list(steps[0])
    encoder = np.array([name[0] in "EM" for name in names])
    pairs = list(pairwise(steps))
    mse = [[_square(b[name].float() - a[name].float()) for a, b in pairs] for name in names]
    square = [[_square(b[name].float()) for b in steps[1:]] for name in names]
    rows = len(steps[0]["M"])
    norm = [[float(s[name].float().norm() / rows**0.5) for s in steps] for name in names]
    between = np.zeros((len(steps), len(steps)))
    for name in (name for name in names if name[0] in "EM"):
        stack = torch.stack([s[name].float().flatten() for s in steps])
        size = stack.square().mean(1)
        product = stack @ stack.T / stack.shape[1]
        # relative to the features that are wanted, those of evaluation j
        between += ((size[:, None] + size[None, :] - 2 * product) / size[None, :]).numpy()
    changes = np.array(mse)
    return FeatureChange(
        names=names,
        encoder=encoder,
        mse=changes,
        relative=changes / np.array(square),
        norm=np.array(norm),
        between=between.clip(0) / encoder.sum(),
    )


def _square(x: Tensor) -> float:
    return float(x.square().mean())


def choose_keys(between: np.ndarray, count: int) -> list[int]:
    """Return the `count` key steps, 0 first, with the least total change from key to reuse.

    between  (N, N) change from i to j, as `FeatureChange.between`

    Exact, by dynamic programming over where the last key lies.
    """
    n = len(between)
    if not 1 <= count <= n:
        raise ValueError(f"{count} key steps of {n}; choose from 1 to {n}")
    # cost[i, j]: evaluations i … j − 1 all reuse key i
    cost = np.full((n, n + 1), np.inf)
    for i in range(n):
        cost[i, i + 1 :] = np.cumsum(between[i, i:])
    best = cost[0].copy()  # best[j]: evaluations before j, with the keys so far
    came = []
    for _ in range(count - 1):
        total = best[:n, None] + cost
        came.append(total.argmin(0))
        best = total.min(0)
    keys, end = [], n
    for origin in reversed(came):
        end = int(origin[end])
        keys.append(end)
    return sorted([0, *keys])
