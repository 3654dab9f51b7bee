"""Execute a generated class and compare its coefficients with the compiled plan's."""

from __future__ import annotations

import logging
import math
from itertools import product
from types import SimpleNamespace

import torch

from samplers import compile as compiler
from samplers.plan import Row
from samplers.registry import Recipe
from samplers.schedule import NoiseSchedule


def verify_region(text: str, recipe: Recipe, base: str, family: str) -> None:
    """Compare the class's coefficients with the compiled plan's; ValueError when they differ.

    family  of the schedule that the plan is compiled for
    """
    names = {"torch": torch, "tqdm": iter, "register_solver": lambda name: lambda cls: cls}
    names |= {base: type(base, (), {}), "SDXLLightning": type("Lightning", (), {})}
    exec(compile(text, f"<{recipe.name}>", "exec"), names)
    region = names["BaseDDIMCFGpp"]()
    table = [1.0, *NoiseSchedule.stable_diffusion().alphas_cumprod]
    cases = [(table, *case) for case in product((1, 2, 5, 20), (0.6, 7.5))]
    cases.append(([*table[:-1], 0.0], 5, 0.6))  # zero terminal SNR
    for alphas, nfe, value in cases:
        region.scheduler = SimpleNamespace(alphas_cumprod=torch.tensor(alphas, dtype=torch.float64))
        schedule = NoiseSchedule.from_scheduler(region.scheduler)
        schedule.family = family
        due = _expected(recipe, schedule, nfe, value)
        made = [_flat(row) for row in region._rows(nfe, value)]
        same = [
            len(a) == len(b) and all(map(_close, a, b)) for a, b in zip(made, due, strict=False)
        ]
        if len(made) != nfe or not all(same):
            raise ValueError(
                f"sampler {recipe.name!r} cannot be written as one class: at nfe {nfe} its "
                "coefficients differ from its plan's; use the mode that imports samplers"
            )


def _expected(recipe: Recipe, schedule: NoiseSchedule, nfe: int, value: float) -> list[list[float]]:
    """Return the plan's numbers, without advice on few evaluations: nobody asked for these."""
    level = compiler.logger.level
    compiler.logger.setLevel(logging.ERROR)
    try:
        plan = compiler.compile_plan(recipe.name, schedule, nfe, **recipe.read(value))
    finally:
        compiler.logger.setLevel(level)
    return [_numbers(row, plan.rate) for row in plan]


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def _flat(row: tuple) -> list[float]:
    """The numbers of a row of the class, in the order of `_numbers`."""
    out: list[float] = []
    for value in row:
        if isinstance(value, float | int):
            out.append(value)
        elif value is not None:
            out += [math.exp(-value.to), value.decay, *value.gains, value.noise]
    return out


def _numbers(row: Row, rate: bool) -> list[float]:
    out = [row.sigma, row.carry.sigma, row.timestep, row.weight]
    if not rate:
        out.append(sum(row.carry.delta))
    for update in (row.carry, row.probe):
        if update is not None:
            out += [update.sigma, update.state, *update.uncond, update.noise]
    return out
