"""Run a plan with an approximated UNet: nearly the same images, less work per evaluation.

NFE counts evaluations of the exact network. What this file runs is not that: `Cost` says how many
evaluations were whole, and results carry the approximation's name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from pipelines.approximation import Approximation, Cache, Propagate
from pipelines.feature_change import choose_keys, feature_change
from pipelines.latent_model import LatentModel
from pipelines.propagation import Cached, Gated, Propagated, Whole, guided, rerouted, same_rows
from pipelines.unet_parts import UNetParts
from samplers import Plan, generators, standard_normal, trajectory

logger = logging.getLogger(__name__)
CALIBRATION_SEEDS = (0, 1, 2, 3)
NOISE_BELOW = 500  # the timestep under which the prior noise is added (arXiv:2312.09608, Sec. 3.4)


@dataclass(frozen=True)
class Cost:
    """What a run of `evaluations` spends: whole and partial evaluations, UNet rows per image.

    Without an approximation, `whole` is `evaluations`, `partial` 0 and `rows` twice as many.
    """

    evaluations: int
    whole: int
    partial: int
    rows: int


@dataclass(frozen=True)
class Approximated:
    """A model, a plan and an approximation that fit together.

    keys  evaluations that run the whole network; a gate's first step is one of them

    Both guidance rows run in every evaluation before a gate, also where the plan needs one alone;
    a plan that never needs the unconditional row (ω = 1) runs the conditional one throughout.
    """

    model: LatentModel
    plan: Plan
    approximation: Approximation
    parts: UNetParts
    keys: tuple[int, ...]

    @property
    def cost(self) -> Cost:
        n, gate = len(self.plan), self.approximation.gate
        rows = n + (gate.first(n) if gate else n * guided(self.plan))
        return Cost(n, len(self.keys), n - len(self.keys), rows)

    def describe(self) -> dict:
        """Return the canonical name, the keys and the cost, for a run's configuration."""
        told = {"name": str(self.approximation), "keys": list(self.keys)}
        return {**told, **asdict(self.cost)}

    def network(self) -> Whole | Gated:
        """Return the network of one run."""
        times = [row.timestep for row in self.plan]
        timesteps = torch.tensor(times, dtype=torch.float32, device=self.model.device)
        reuse, gate = self.approximation.reuse, self.approximation.gate
        if isinstance(reuse, Propagate):
            network = Propagated(self.parts, timesteps, self.keys, reuse.parallel)
        elif isinstance(reuse, Cache):
            network = Cached(self.parts, timesteps, self.keys, reuse.depth)
        else:
            network = Whole(self.parts, timesteps)
        return network if gate is None else Gated(network, gate.first(len(self.plan)), gate.delta)

    @torch.no_grad()
    def latents(
        self, prompts: Sequence[str], seeds: Sequence[int], null_prompt: str = ""
    ) -> torch.Tensor:
        """Run for (prompt, seed) rows in one batch; return final latents (N, 4, h, w).

        Row k depends on prompts[k] and seeds[k] alone.
        """
        model, plan, reuse = self.model, self.plan, self.approximation.reuse
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; pass one per image")
        noise = reuse.noise if isinstance(reuse, Propagate) else 0.0
        z_T = standard_normal((len(seeds), *model.latent_shape), generators(seeds), model.device)
        network = same_rows(model.conditioned(list(prompts), null_prompt), plan)
        with rerouted(model, self.network()):
            for step in trajectory(network, z_T, plan):
                following = step.index + 1
                if noise and following < len(plan) and plan.rows[following].timestep < NOISE_BELOW:
                    step.latent = step.latent + noise * z_T
        return step.latent

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], null_prompt: str = ""
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LatentModel.generate`: final latents, and images in [0, 1] on the CPU."""
        latents = self.latents(prompts, seeds, null_prompt)
        return latents, (self.model.decode(latents) / 2 + 0.5).clamp(0, 1).cpu()


def approximated(model: LatentModel, plan: Plan, approximation: Approximation) -> Approximated:
    """Check that the three go together, and choose the keys; keys=auto makes one exact run.

    Raises ValueError, in one line, for a network that is not known, keys or depth that do not fit,
    and a gate with delta=drop under CFG++: it renoises with the unconditional row, which is gone.
    """
    if plan.stochastic:
        logger.warning(
            "%s adds noise at every step, which reused features do not fit: pictures suffer; take "
            "a deterministic sampler, such as exp2m_cfg++[eta=0] or dpm2m",
            plan.name,
        )
    if not isinstance(model, LatentModel):
        raise ValueError(
            f"model is a {type(model).__name__}; pass a loaded one, such as get_solver(…) gives"
        )
    parts, n = UNetParts(model.unet), len(plan)
    reuse, gate = approximation.reuse, approximation.gate
    if gate and gate.delta == "drop" and plan.guidance == "cfg++":
        raise ValueError(
            f"{gate} needs a CFG sampler: {plan.name} renoises with the unconditional row, which "
            "this drops; write delta=hold, which estimates the row from its last difference"
        )
    if gate and not guided(plan):
        raise ValueError(f"{gate}: this plan runs the conditional row alone; leave the gate out")
    if isinstance(reuse, Cache) and not reuse.depth < parts.units:
        raise ValueError(f"depth={reuse.depth}: this UNet allows 1 to {parts.units - 1}")

    def measured(count: int) -> list[int]:
        nothing = [""] * len(CALIBRATION_SEEDS)
        change = feature_change(model, plan, nothing, CALIBRATION_SEEDS, decoder=False)
        return choose_keys(change.between, count)

    if reuse is None:
        keys = set(range(n))
    else:
        keys = set(reuse.keys.resolve(n, measured))
        if gate and isinstance(reuse, Propagate) and gate.first(n) < n:
            keys.add(gate.first(n))  # decoding ahead must not cross a change of rows
    return Approximated(model, plan, approximation, parts, tuple(sorted(keys)))
