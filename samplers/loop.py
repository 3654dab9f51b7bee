"""The sampling loop: the only one in this repository. It knows plans, not methods."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from samplers.noise import standard_normal
from samplers.plan import Plan, Update
from samplers.schedule import alpha_of

# model(z, t) → (ε_uncond, ε_cond): z (B, C, H, W) in VP units, t a 0-dim float tensor
Model = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Step:
    """What one evaluation did. Tensors are computed when asked for.

    index, timestep, sigma  which evaluation, and the level at which it was made
    latent    the state after it, in the network's VP units; assign to it to change the run
    denoised  the guided clean estimate D_u + ω·Δ of this evaluation
    """

    __slots__ = ("_carry", "_level", "_pair", "_weight", "index", "sigma", "timestep")

    def __init__(self, index, timestep, sigma, weight, pair, carry, level):
        self.index, self.timestep, self.sigma = index, timestep, sigma
        self._weight, self._pair, self._carry, self._level = weight, pair, carry, level

    @property
    def latent(self) -> torch.Tensor:
        return self._carry * alpha_of(self._level)

    @latent.setter
    def latent(self, z: torch.Tensor) -> None:
        self._carry = z.to(self._carry) / alpha_of(self._level)

    @property
    def denoised(self) -> torch.Tensor:
        uncond, cond = self._pair
        return torch.lerp(uncond, cond, self._weight)


def _apply(
    update: Update,
    state: torch.Tensor,
    history: deque[tuple[torch.Tensor, torch.Tensor]],
    sources: Sequence[torch.Generator],
) -> torch.Tensor:
    """Form state·a + Σ uncond·D_u + Σ delta·(D_c − D_u) + noise·z; `history` is latest first."""
    if not update.uncond and update.state == 1:
        return state
    out = state * update.state
    for (uncond, cond), u, g in zip(history, update.uncond, update.delta, strict=False):
        if u != g:
            out.add_(uncond, alpha=u - g)
        if g:
            out.add_(cond, alpha=g)
    if update.noise:
        out.add_(standard_normal(out.shape, sources, out.device, out.dtype), alpha=update.noise)
    return out


@torch.no_grad()
def trajectory(
    model: Model,
    z_T: torch.Tensor,
    plan: Plan,
    generators: Sequence[torch.Generator] | None = None,
) -> Iterator[Step]:
    """Run a plan, yielding a `Step` after every network evaluation.

    z_T         standard normal noise (B, C, H, W); scaling is done here. It is not modified.
    generators  one per image (`noise.generators(seeds)`), needed by stochastic plans only

    The state is float32, or float64 where z_T is; the network sees z_T's own dtype. Nothing here
    waits for the device. Raises ValueError when a stochastic plan lacks generators, or when the
    network's outputs have another shape than its input.
    """
    if plan.stochastic and generators is None:
        raise ValueError(
            f"plan {plan.name!r} draws noise; pass generators=, one per image, for example "
            "samplers.noise.generators(seeds)"
        )
    sources = generators or ()
    dtype = torch.promote_types(z_T.dtype, torch.float32)
    carry = probe = z_T.to(dtype) * plan.start
    timesteps = torch.tensor([row.timestep for row in plan], dtype=dtype, device=z_T.device)
    history: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=plan.memory)
    for i, row in enumerate(plan):
        eps_uncond, eps_cond = model((probe * alpha_of(row.sigma)).to(z_T.dtype), timesteps[i])
        if not eps_uncond.shape == eps_cond.shape == probe.shape:
            raise ValueError(
                f"the network returned shapes {tuple(eps_uncond.shape)} and "
                f"{tuple(eps_cond.shape)} for an input of {tuple(probe.shape)}"
            )
        uncond = torch.sub(probe, eps_uncond.to(dtype), alpha=row.sigma)
        cond = torch.sub(probe, eps_cond.to(dtype), alpha=row.sigma)
        history.appendleft((uncond, cond))
        carry = _apply(row.carry, carry, history, sources)
        step = Step(i, row.timestep, row.sigma, row.weight, (uncond, cond), carry, row.carry.sigma)
        yield step
        carry = step._carry
        probe = carry if row.probe is None else _apply(row.probe, carry, history, sources)


def sample(
    model: Model,
    z_T: torch.Tensor,
    plan: Plan,
    generators: Sequence[torch.Generator] | None = None,
) -> torch.Tensor:
    """Run a plan to its end and return the clean latent, on z_T's device, in float32 or better.

    See `trajectory` for the arguments. Where a plan ends above σ = 0, the result is that noisy
    latent, in the network's VP units.
    """
    (last,) = deque(trajectory(model, z_T, plan, generators), maxlen=1)
    return last.latent
