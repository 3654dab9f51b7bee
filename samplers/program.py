"""A plan as the loop runs it: in the network's own units, with what each evaluation is needed for.

The state is kept as the network sees it, z = α·x, so no step rescales it. An evaluation at noise
level σ leaves behind *estimates* α·D(ω) = z − α·σ·(ε_u + ω·(ε_c − ε_u)). Where every later use
weighs Δ against D_u alike, as any plan does whose guidance is a rate, one estimate serves them all;
where not, D_u and D_c are kept apart (ω = 0 and 1). The same numbers say which network rows matter.
"""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, NamedTuple

from samplers.schedule import alpha_of

if TYPE_CHECKING:
    from samplers.plan import Plan, Row, Update

SAME = 1e-12  # two weights of Δ against D_u that differ by less are one


class Combination(NamedTuple):
    """state·z + Σ weight·ring[slot] + noise·(standard normal)."""

    state: float
    terms: tuple[tuple[int, float], ...]  # (slot, weight)
    noise: float


class Stage(NamedTuple):
    """One evaluation and what follows it, all floats.

    sigma_vp  α·σ, the weight of ε in z
    alpha     of the evaluation: an estimate divided by it is D
    weight    of Δ in the preview
    uncond, cond  whether the network's row is needed
    keep      the estimates to leave in the ring, z − a·ε_u − b·ε_c: (slot, a, b)
    latent    factor from the carry to the VP units of the level that it arrives at
    """

    timestep: float
    sigma: float
    sigma_vp: float
    alpha: float
    weight: float
    uncond: bool
    cond: bool
    keep: tuple[tuple[int, float, float], ...]
    carry: Combination
    probe: Combination | None
    latent: float


class Program(NamedTuple):
    """A plan's stages, how many ring slots the last `memory` evaluations take, and the factor on
    the standard normal noise."""

    stages: tuple[Stage, ...]
    slots: int
    memory: int
    start: float


def estimates(plan: Plan) -> list[tuple[float, ...]]:
    """Return, per evaluation, the ω of the estimates D(ω) that later updates are made of."""
    uses: list[list[tuple[float, float]]] = [[] for _ in plan.rows]
    for i, row in enumerate(plan.rows):
        for update in (row.carry, row.probe):
            for e, u, g in _weighed(update, i) if update else ():
                uses[e].append((u, g))
    return [_weights(pairs) for pairs in uses]


def needed(row: Row, omegas: tuple[float, ...]) -> tuple[bool, bool]:
    """Return whether the (unconditional, conditional) row of an evaluation matters.

    The preview counts as a use, so a step's `denoised` is right in every plan.
    """
    weights = (*omegas, row.weight)
    return any(w != 1 for w in weights), any(w != 0 for w in weights)


def compile_program(plan: Plan) -> Program:
    """Return the plan's coefficients as the loop applies them; float64 throughout."""
    rows, kept = plan.rows, estimates(plan)
    width, memory = max(map(len, kept)), plan.memory
    alphas = [alpha_of(row.sigma) for row in rows]
    stages, carried = [], alphas[0]  # the α in which the carry is held
    for i, (row, omegas) in enumerate(zip(rows, kept, strict=True)):
        noise, arrival = row.sigma * alphas[i], alpha_of(row.carry.sigma)
        last = i == len(rows) - 1
        unit = arrival if last or row.probe else alphas[i + 1]

        def terms(update: Update, unit: float, i: int = i) -> tuple[tuple[int, float], ...]:
            found = []
            for e, u, g in _weighed(update, i):
                weights = (u,) if len(kept[e]) == 1 else (u - g, g)
                found += [
                    (e % memory * width + r, weight * unit / alphas[e])
                    for r, weight in enumerate(weights)
                    if weight
                ]
            return tuple(found)

        carry = Combination(
            row.carry.state * unit / carried, terms(row.carry, unit), row.carry.noise * unit
        )
        probe = None
        if row.probe and not last:
            ahead = alphas[i + 1]
            probe = Combination(
                row.probe.state * ahead / unit, terms(row.probe, ahead), row.probe.noise * ahead
            )
        stages.append(
            Stage(
                row.timestep, row.sigma, noise, alphas[i], row.weight,
                *needed(row, omegas),
                tuple(
                    (i % memory * width + r, noise * (1 - omega), noise * omega)
                    for r, omega in enumerate(omegas)
                ),
                carry, probe, arrival / unit,
            )
        )  # fmt: skip
        carried = unit
    return Program(tuple(stages), memory * width, memory, plan.start * alphas[0])


def _weighed(update: Update, i: int) -> list[tuple[int, float, float]]:
    """Return (evaluation, weight of D_u, weight of Δ) of what an update at row i takes."""
    pairs = zip(range(i, -1, -1), update.uncond, update.delta, strict=False)
    return [(e, u, g) for e, u, g in pairs if u or g]


def _weights(uses: list[tuple[float, float]]) -> tuple[float, ...]:
    if not uses:
        return ()
    u, g = max(uses, key=lambda use: abs(use[0]))
    if u and all(isclose(b * u, g * a, rel_tol=SAME, abs_tol=SAME * abs(u * a)) for a, b in uses):
        return (g / u,)
    return (0.0, 1.0)
