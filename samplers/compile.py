"""Compile a named sampler, a schedule and a strength of guidance into a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import exp, inf, log, sqrt
from numbers import Real
from pathlib import Path

from samplers import guidance
from samplers.errors import choose, finite, pair, whole
from samplers.grids import Grid, make_grid
from samplers.guidance import LARGEST_LAMBDA, Rate
from samplers.plan import Plan, Row, Update
from samplers.presets import Preset, find_preset
from samplers.registry import Recipe, find
from samplers.schedule import NoiseSchedule
from samplers.solvers import Move, Stage

logger = logging.getLogger(__name__)
FEW = 10  # evaluations below which `Recipe.few` is worth a line in the log


def compile_plan(
    name: str,
    schedule: NoiseSchedule,
    nfe: int = 20,
    scale: float | None = None,
    *,
    omega: float | Callable[[float], float] | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    shape: str | None = None,
    interval: tuple[float, float] | None = None,
    kick: float | None = None,
    preset: str | Path | Preset | None = None,
    **options: object,
) -> Plan:
    """Compile a named sampler into a checked plan of exactly `nfe` evaluations.

    scale     ω for CFG samplers, λ_cfg for CFG++ ones; the recipe's default when left out
    omega     the strength in CFG units instead, for any sampler: ω for CFG, the mean ω over the
              steps for a kick, the mean of the shape over CFG++'s 50 reference steps for its rates
              (so the same at any nfe, but for `kick`); or a function σ → ω, the rate itself
    grid      a name, a function, or the nfe + 1 noise levels; the recipe's default when left out
    shape     of the rate ω(σ): "constant", "late", "rising" or "bell"
    interval  (low, high]: guide only for σ inside, the conditional model outside
    kick      bounds the shape: where ω(σ) is above the constant ω, what one step adds of Δ,
              ω(σ)·(1 − e^{−ρh}), is at most this; inf for no bound. The recipe's by default, but
              none where a preset or a function gives the weights
              (shape, interval and kick are of rates, not for samplers that add a kick per step)
    preset    a name in presets/, or a file: it sets grid, shape and options, for one nfe
    options   the solver's own, such as `eta`, `history`, `order`: see `Recipe.options`

    Raises ValueError for every name, number or option that does not fit, with what would.
    """
    recipe = find(name)
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(
            f"schedule is a {type(schedule).__name__}; pass a NoiseSchedule, for example "
            "NoiseSchedule.from_scheduler(pipe.scheduler)"
        )
    nfe = whole("nfe", nfe, 1, schedule.num_timesteps)
    if scale is not None and omega is not None:
        raise ValueError(f"scale={scale} and omega={omega} both state the strength; pass one")
    _check_options(recipe, options)
    if recipe.guidance == "cfg++" and isinstance(scale, Real) and scale > LARGEST_LAMBDA:
        logger.warning(
            "%s: scale=%g is CFG++'s λ, usually 0 to 1; for guidance as strong as CFG's ω = %g "
            "pass omega=%g",
            *(name, scale, scale, scale),
        )
    if recipe.few and nfe < FEW:
        logger.warning("%s: %d evaluations are few for it; %s is for them", name, nfe, recipe.few)
    kick = None if kick is None else _bound(kick)
    guided = {"shape": shape, "interval": interval, "kick": kick}
    said = {k: v for k, v in {**guided, **options}.items() if v is not None}
    if isinstance(grid, str):
        said["grid"] = grid
    if preset is not None:
        chosen = find_preset(preset)
        chosen.check_use(name, nfe, {"grid": grid, **guided, **options})
        recipe = replace(recipe, solver=chosen.stages, order=1)
        grid, shape, options, said = chosen.levels, chosen.rate, {}, {"preset": str(preset)}
    levels = make_grid(recipe.grid if grid is None else grid, schedule, recipe.steps(nfe))
    lam = [-log(sigma) if sigma else inf for sigma in levels]
    budget = {"nfe": nfe} if recipe.own_midpoints else {}
    stages = list(recipe.solver(lam, **budget, **options))
    is_kick = recipe.strength.endswith("kick")
    if is_kick and (callable(omega) or any(value is not None for value in guided.values())):
        raise ValueError(
            f"sampler {name!r} adds a kick per step; it takes no shape, interval or kick, and no "
            "function as omega"
        )

    def build(strength: float) -> tuple[Row, ...]:
        return tuple(_kicked(recipe, schedule, stages, strength))

    if is_kick:
        scale = recipe.scale if scale is None else finite("scale", scale)
        if omega is not None:  # a kick's strength is linear in the scale
            unit = Plan(name, build(1.0), 1.0, recipe.order, "cfg++", False, 1.0).omega
            scale = finite("omega", omega) / unit
        rows = build(scale)
    else:
        scale, constant, rate = _rate(recipe, schedule, scale, omega, shape)
        interval = None if interval is None else pair("interval", interval)
        own = preset is not None or callable(omega)  # weights that are to stay as they are
        largest = recipe.kick if kick is None and not own else kick
        largest = inf if largest is None else largest
        rows = tuple(_rated(recipe, schedule, stages, rate, constant, largest, interval))
    start = {"ve": levels[0], "vp": sqrt(1 + levels[0] ** 2), "clean": 1.0}[recipe.start]
    order = _order(recipe, options)
    plan = Plan(name, rows, start, order, recipe.guidance, not is_kick, scale, said)
    return plan.check()


def stated_omega(plan: Plan, schedule: NoiseSchedule) -> float:
    """Return the ω for which `compile_plan(…, omega=ω)` gives a plan's own guidance.

    Not always the mean over its steps, `plan.omega`: a rate's ω(σ) has its mean elsewhere.
    """
    if not plan.rate:
        return plan.omega
    return plan.scale * _unit(find(plan.name), schedule)


def _unit(recipe: Recipe, schedule: NoiseSchedule) -> float:
    """Return the CFG units in one unit of a rate's scale."""
    return guidance.mean_bell(schedule) if recipe.strength == "bell" else 1.0


# what others call the arguments of `compile_plan`
_ELSEWHERE = {
    "cfg_guidance": "scale, or omega in CFG units",
    "guidance_scale": "omega",
    "num_inference_steps": "nfe",
    "steps": "nfe",
}


def _check_options(recipe: Recipe, options: dict) -> None:
    for option, value in options.items():
        if option not in recipe.options:
            takes = ", ".join(recipe.options) or "none"
            hint = f"; it is {_ELSEWHERE[option]} here" if option in _ELSEWHERE else ""
            raise ValueError(
                f"sampler {recipe.name!r} takes no option {option}={value!r}{hint}; its options: "
                f"{takes}"
            )
    for name in {"eta", "history"} & options.keys():  # as Python's own: numpy's may be float32
        options[name] = finite(name, options[name])
    if options.get("eta", 0) < 0:
        raise ValueError(f"eta is {options['eta']}; it must be 0 (deterministic) or more")
    if not 0 <= options.get("history", 1) <= 1:
        raise ValueError(f"history is {options['history']}; it must be from 0 to 1")
    if "window" in options:
        options["window"] = pair("window", options["window"])


def _order(recipe: Recipe, options: dict) -> int:
    """The declared order, as the options change it; a corrector adds one, up to 3.

    With part of its history alone, a noisy step is of order 1.
    """
    all_of_them = {**recipe.options, **options}
    if all_of_them.get("eta") and all_of_them.get("history", 1) != 1:
        return 1
    order = all_of_them.get("order", recipe.order)
    return min(3, int(order) + bool(all_of_them.get("corrector")))


def _rate(
    recipe: Recipe,
    schedule: NoiseSchedule,
    scale: float | None,
    omega: float | Rate | None,
    shape: str | Callable[[float], Rate] | None,
) -> tuple[float, float, Rate]:
    """Return scale, constant ω and ω(σ) from whichever of scale, omega and shape the caller gave.

    A rate that is the caller's own is measured against ω = 1.
    """
    if callable(omega):
        return 1.0, 1.0, omega
    mean = guidance.mean_bell(schedule)
    shapes = {
        "constant": guidance.constant,
        "late": lambda w: guidance.late(schedule, w),
        "rising": lambda w: guidance.rising(schedule, w),
        "bell": lambda w: guidance.bell(schedule, w / mean),
    }
    shape = shape or recipe.shape or recipe.strength
    make = shape if callable(shape) else choose("shape", shape, shapes)
    unit = _unit(recipe, schedule)
    if omega is not None:
        scale = finite("omega", omega) / unit
    scale = recipe.scale if scale is None else finite("scale", scale)
    return scale, scale * unit, make(scale * unit)


def _bound(kick: float) -> float:
    if not isinstance(kick, Real) or not kick > 0:
        raise ValueError(f"kick is {kick!r}; it must be a number above 0, or inf for no bound")
    return float(kick)


def _timestep(recipe: Recipe, schedule: NoiseSchedule, sigma: float) -> float:
    t = schedule.timestep(sigma)
    if recipe.timesteps == "nearest":
        return float(round(t))
    return t + 1 if recipe.timesteps == "after" else t


def _update(move: Move, delta: tuple[float, ...]) -> Update:
    return Update(exp(-move.to), move.decay, move.gains, delta, move.noise)


def _rated(
    recipe: Recipe,
    schedule: NoiseSchedule,
    stages: list[Stage],
    rate: Rate,
    constant: float,
    kick: float,
    interval: tuple[float, float] | None,
) -> Iterator[Row]:
    """Integrate D_u + ω(σ)·Δ: each weight on D also weighs Δ, with the ω of that evaluation."""

    def weight(stage: Stage) -> float:
        if interval and not guidance.inside(interval, exp(-stage.at)):
            return 1.0
        omega = finite("omega(sigma)", rate(exp(-stage.at)))
        move = stage.carry if stage.carry.gains or not stage.probe else stage.probe
        gain = abs(sum(move.gains))  # negative where an inversion runs upwards
        return guidance.bounded(omega, constant, gain, kick) if gain and kick < inf else omega

    weights = [weight(stage) for stage in stages]
    for i, stage in enumerate(stages):

        def guided(move: Move, i: int = i) -> Update:
            return _update(move, tuple(c * weights[i - j] for j, c in enumerate(move.gains)))

        sigma = exp(-stage.at)
        probe = guided(stage.probe) if stage.probe else None
        yield Row(sigma, _timestep(recipe, schedule, sigma), weights[i], guided(stage.carry), probe)


def _kicked(
    recipe: Recipe, schedule: NoiseSchedule, stages: list[Stage], scale: float
) -> Iterator[Row]:
    """Integrate D_u alone and add scale·Δ to the carry once per step; probes are not guided.

    A solver that runs upwards says itself how it takes kicks back (`Move.kicks`). The leaky kick is
    CFGpp's 2M: the *guided* estimate minus the previous unconditional one stands for the
    difference, so its weight −c_1 adds to the kick.
    """
    for stage in stages:
        gains = stage.carry.gains
        kick = scale
        if recipe.strength == "leaky_kick" and len(gains) > 1:
            kick *= 1 - gains[1]
        usual = (kick, *[0.0] * (len(gains) - 1)) if gains else ()
        delta = tuple(scale * k for k in stage.carry.kicks) or usual
        probe = None
        if stage.probe:
            quiet = (0.0,) * len(stage.probe.gains)
            probe = _update(stage.probe, tuple(scale * k for k in stage.probe.kicks) or quiet)
        sigma = exp(-stage.at)
        timestep = _timestep(recipe, schedule, sigma)
        yield Row(sigma, timestep, scale, _update(stage.carry, delta), probe)
