"""Turn arms into what draws them: a compiled plan, or the region of a file (`eval.region`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from eval.arms import Arm
from eval.models import Sampler

if TYPE_CHECKING:
    from pipelines.approximate import Approximated


class Drawer(Protocol):
    """One arm at one strength, on a loaded model."""

    def describe(self) -> dict:
        """Return `scale` and `omega` and what else determines the images, for config.json."""

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final latents and images in [0, 1]; ValueError for any NFE but the run's."""


@dataclass
class Planned:
    """An arm that runs a plan of `samplers`."""

    arm: Arm
    sd: Sampler
    plan: object

    def describe(self) -> dict:
        from samplers.compile import stated_omega

        table = self.plan.to_json()
        omega = self.arm.omega
        if omega is None:
            omega = stated_omega(self.plan, self.sd.schedule)
        plan = json.loads(table) if isinstance(table, str) else table
        return {"scale": self.plan.scale, "omega": omega, "plan": plan}

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.sd.evaluations
        latents, images = self.sd.generate(self.plan, list(prompts), list(seeds))
        spent = self.sd.evaluations - before
        if spent != len(self.plan):
            raise ValueError(
                f"arm {self.arm.key!r} spent {spent} evaluations on a batch, not {len(self.plan)}; "
                "its plan and its loop disagree, so it is not compared: leave it out of --arms"
            )
        return latents, images


@dataclass
class Near(Planned):
    """A planned arm with an approximated UNet: its evaluations are not all whole ones."""

    ready: Approximated

    def describe(self) -> dict:
        return {**super().describe(), "approximation": self.ready.describe()}

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.ready.generate(prompts, seeds)


def drawer(arm: Arm, sd: Sampler, nfe: int, grid: str | None = None) -> Drawer:
    """Prepare an arm; every arm must spend exactly the same number of evaluations.

    grid  one grid of noise levels for all arms, else each sampler's own
    Raises ValueError, naming the arm, for what does not fit.
    """
    options = dict(arm.options)
    try:
        if arm.region is not None:
            from eval.region import load_region

            if grid is not None:
                raise ValueError("a region has a grid of its own; leave --grid out")
            return load_region(sd, arm.region, nfe, arm.omega, arm.scale, **options)
        from samplers import compile_plan

        if grid is not None:
            options.setdefault("grid", grid)
        strength = {"omega": arm.omega} if arm.scale is None else {"scale": arm.scale}
        plan = compile_plan(arm.sampler, sd.schedule, nfe=nfe, **strength, **options)
    except ValueError as error:
        raise ValueError(f"arm {arm.key!r}: {error}") from None
    if len(plan) != nfe:
        raise ValueError(
            f"arm {arm.key!r} spends {len(plan)} evaluations, not {nfe}: arms are compared "
            f"at equal cost; give an --nfe that it can spend exactly, such as {len(plan)}"
        )
    if arm.approximate is None:
        return Planned(arm, sd, plan)
    try:
        return Near(arm, sd, plan, approximate(sd, plan, arm.approximate))
    except ValueError as error:
        raise ValueError(f"arm {arm.key!r}: {error}") from None


def approximate(sd: Sampler, plan: object, name: str) -> Approximated:
    """Fit the approximation of that name to a loaded model and a plan."""
    from pipelines.approximate import approximated  # here: it imports diffusers
    from pipelines.approximation import parse

    return approximated(sd, plan, parse(name))
