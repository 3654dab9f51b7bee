"""The sampling loop: the only one in this repository. It knows plans, not methods."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from samplers.execute import Pair, checked_pair, denoised
from samplers.fused import executor
from samplers.noise import generators_of, standard_normal
from samplers.path import BrownianPath
from samplers.plan import Plan
from samplers.program import Stage

# model(z, t) → (ε_uncond, ε_cond): z (B, C, H, W) in VP units, t a 0-dim float tensor. Where it has
# methods uncond_row(z, t) and cond_row(z, t), each → one ε, the loop asks for a row alone where the
# other has no weight in anything that follows.
Model = Callable[[torch.Tensor, torch.Tensor], Pair]


class Step:
    """What one evaluation did. Tensors are computed when asked for.

    index, timestep, sigma  which evaluation, and the level at which it was made
    latent    the state after it, in the network's VP units; assign to it, or write into it, to
              change the run
    denoised  the guided clean estimate D_u + ω·Δ of this evaluation
    """

    __slots__ = (
        *("_ahead", "_carry", "_eps", "_latent", "_look_ahead", "_probe", "_stage", "_version"),
        *("index", "sigma", "timestep"),
    )

    def __init__(
        self,
        index: int,
        stage: Stage,
        probe: torch.Tensor,
        eps: Pair,
        carry: torch.Tensor,
        look_ahead: Callable[[int, torch.Tensor], torch.Tensor],
    ):
        self.index, self.timestep, self.sigma = index, stage.timestep, stage.sigma
        self._stage, self._probe, self._eps, self._carry = stage, probe, eps, carry
        self._look_ahead = look_ahead
        self._latent: torch.Tensor | None = None
        self._ahead: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def latent(self) -> torch.Tensor:
        if self._latent is None:
            with torch.inference_mode(False), torch.no_grad():  # its writes are to be counted
                self._latent = self._carry * self._stage.latent
            self._version = self._latent._version
        return self._latent

    @latent.setter
    def latent(self, z: torch.Tensor) -> None:
        if z is not self._latent:
            self._latent = None
            self._carry = z.to(self._carry) / self._stage.latent

    def carry(self) -> torch.Tensor:
        """Return the state that the run goes on from; exactly its own where nobody changed it."""
        if self._latent is not None and self._latent._version != self._version:
            self.latent = self._latent.clone()
        return self._carry

    def next_probe(self) -> torch.Tensor:
        """Return the state that the network sees next: the carry, or what looks ahead of it."""
        carry = self.carry()
        if self._stage.probe is None:
            return carry
        if self._ahead is None or self._ahead[0] is not carry:
            self._ahead = carry, self._look_ahead(self.index, carry)
        return self._ahead[1]

    @property
    def denoised(self) -> torch.Tensor:
        return denoised(self._stage, self._probe, self._eps)


def version_of(x: torch.Tensor) -> int | None:
    """Return how often a tensor was written into; None where torch does not count."""
    return None if x.is_inference() else x._version


def _evaluate(model: Model, z: torch.Tensor, t: torch.Tensor, stage: Stage) -> Pair:
    """Ask the network for the rows that the stage needs; one alone is given as both."""
    row = None
    if not stage.uncond:
        row = getattr(model, "cond_row", None)
    elif not stage.cond:
        row = getattr(model, "uncond_row", None)
    version = version_of(z)
    given = (row(z, t),) * 2 if row else model(z, t)
    pair = checked_pair(given, z)
    if version_of(z) != version:
        raise ValueError("the network changed its input in place; let it work on z.clone()")
    return pair


@torch.no_grad()
def trajectory(
    model: Model,
    z_T: torch.Tensor,
    plan: Plan,
    generators: Sequence[torch.Generator] | None = None,
    kernel: str = "auto",
) -> Iterator[Step]:
    """Run a plan, yielding a `Step` after every network evaluation.

    z_T         standard normal noise (B, C, H, W); scaling is done here. It is not modified.
    generators  one per image (`noise.generators(seeds)`), for stochastic plans; without them the
                content of z_T seeds the noise, so that an image is a function of its z_T
    kernel      what combines the tensors, see `samplers.fused.executor`; all give the same images

    The state is float32, or float64 where z_T is; the network sees z_T's own dtype. Nothing here
    waits for the device, but for seeding by z_T before the first evaluation. Raises ValueError when
    the network's outputs have another shape than its input, or when it writes into its input.
    """
    if isinstance(generators, torch.Generator):
        raise ValueError(
            "generators is one torch.Generator; pass a list with one per image, such as "
            "generators([0, 1])"
        )
    if plan.stochastic and generators is None:
        generators = generators_of(z_T)

    if plan.noise == "path":
        draw = BrownianPath(plan, generators or ())
    else:

        def draw(like: torch.Tensor) -> torch.Tensor:
            return standard_normal(like.shape, generators or (), like.device, like.dtype)

    dtype = torch.promote_types(z_T.dtype, torch.float32)
    program = plan.program
    carry = probe = z_T.to(dtype) * program.start
    run = executor(kernel, program, carry)
    ahead = partial(run.look_ahead, draw=draw)
    times = torch.tensor([s.timestep for s in program.stages], dtype=dtype, device=z_T.device)
    for i, (stage, t) in enumerate(zip(program.stages, times.unbind(), strict=True)):
        eps = _evaluate(model, probe.to(z_T.dtype), t, stage)
        step = Step(i, stage, probe, eps, run.advance(i, carry, probe, eps, draw), ahead)
        yield step
        carry, probe = step.carry(), step.next_probe()


def sample(
    model: Model,
    z_T: torch.Tensor,
    plan: Plan,
    generators: Sequence[torch.Generator] | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Run a plan to its end and return the clean latent, on z_T's device, in float32 or better.

    See `trajectory` for the arguments. Where a plan ends above σ = 0, the result is that noisy
    latent, in the network's VP units.
    """
    (last,) = deque(trajectory(model, z_T, plan, generators, kernel), maxlen=1)
    return last.latent
