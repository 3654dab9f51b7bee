"""Compile a named sampler, a schedule and a strength of guidance into a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import exp, inf, log, sqrt
from numbers import Real
from pathlib import Path

from samplers import guidance
from samplers.errors import choose, finite, flag, pair, whole
from samplers.grids import Grid, make_grid
from samplers.guidance import LARGEST_LAMBDA, Rate
from samplers.path import spans
from samplers.plan import NOISES, Plan, Row, Update
from samplers.presets import Preset, find_preset
from samplers.registry import Recipe, find
from samplers.schedule import NoiseSchedule
from samplers.solvers import Move, Stage

logger = logging.getLogger(__name__)
FEW = 10  # evaluations below which `Recipe.few` is worth a line in the log


def compile_plan(
    name: str,
    schedule: NoiseSchedule,
    /,
    nfe: int = 20,
    scale: float | None = None,
    *,
    omega: float | Callable[[float], float] | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    shape: str | None = None,
    interval: tuple[float, float] | None = None,
    cap: float | None = None,
    preset: str | Path | Preset | None = None,
    noise: str = "steps",
    **options: object,
) -> Plan:
    """Compile a named sampler into a checked plan of exactly `nfe` evaluations.

    scale     ω for CFG samplers, λ_cfg for CFG++ ones; the recipe's default when left out
    omega     the strength in CFG units instead, for any sampler: ω for CFG, the mean ω over the
              steps for a kick, the mean of the shape over CFG++'s 50 reference steps for its rates
              (so the same at any nfe, but for `cap`); or a function σ → ω, the rate itself
    grid      a name, a function, or the levels themselves, one more than the grid has steps
              (`Recipe.steps`: nfe for most); the recipe's default when left out
    shape     of the rate ω(σ): "constant", "late", "rising" or "bell"
    interval  (low, high]: guide only for σ inside, the conditional model outside
    cap       bounds ω(σ): what one step adds to that of the conditional model is at most so much
              of Δ, (ω(σ) − 1)·(1 − e^{−ρh}) ≤ cap, and down to half of it at low noise
              (`guidance.bounded`); inf for no bound. The recipe's by default, but none where a
              preset or a function gives the weights
              (shape, interval and cap are of rates, not for samplers that add a kick per step)
    preset    a name in presets/, or a file: it sets grid, shape and options, for one nfe
    noise     "steps": every step draws its own; "path": all read one Brownian path per image, so
              that more steps, or another sampler, refine a picture and do not redraw it
              (`samplers.path`)
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
    _check_strength(recipe, scale, omega)
    guided = _checked_guidance(recipe, omega, shape, interval, cap)
    options = _checked_options(recipe, options)
    whole_way = grid is None or isinstance(grid, str) or callable(grid)
    if recipe.few and nfe < FEW and whole_way:  # levels of one's own may be a part of it
        _say_few(name, nfe, recipe.few)
    said = guided | options | ({"grid": grid} if isinstance(grid, str) else {})
    shaped: Callable[[float], Rate] | None = None
    if preset is not None:
        chosen = find_preset(preset)
        chosen.check_use(name, nfe, {"grid": grid, **said})
        recipe = replace(recipe, solver=chosen.stages, defaults={}, order=1)
        grid, shaped, options, said = chosen.levels, chosen.rate, {}, {"preset": str(preset)}
    levels = make_grid(recipe.grid if grid is None else grid, schedule, recipe.steps(nfe))
    lam = [-log(sigma) if sigma else inf for sigma in levels]
    stages = recipe.stages(lam, nfe, **options)
    _check_stages(name, stages, nfe, levels[0 if recipe.inverts else -1])
    if recipe.kicks:
        scale = _kick_scale(recipe, schedule, stages, scale, omega)
        rows = tuple(_kicked(recipe, schedule, stages, scale))
    else:
        scale, rate = _rate(recipe, schedule, scale, omega, shaped or shape)
        if cap is None:  # weights that are the caller's own stay as they are
            cap = None if shaped or callable(omega) else recipe.cap
        bound = inf if cap is None else float(cap)
        inside = guided.get("interval")
        rows = tuple(_rated(recipe, schedule, stages, rate, bound, inside))
    start = {"ve": levels[0], "vp": sqrt(1 + levels[0] ** 2), "clean": 1.0}[recipe.start]
    order = _order(recipe, options)
    plan = Plan(name, rows, start, order, recipe.guidance, not recipe.kicks, scale, said)
    return _with_noise(plan, noise).check()


def _check_stages(name: str, stages: list[Stage], nfe: int, end: float) -> None:
    """Raise ValueError for a solver that does not go all the way in exactly `nfe` evaluations."""
    reached = exp(-stages[-1].carry.to) if stages else None
    if len(stages) != nfe or abs(reached - end) > 1e-9 * (1 + end):
        raise ValueError(
            f"the solver of {name!r} made {len(stages)} evaluations of {nfe} and ended at sigma = "
            f"{reached}, not {end:g}; it must yield one Stage per evaluation and end at the last "
            "level (a solver with midpoints of its own takes nfe, see solvers.dpmpp_2s)"
        )


@cache  # once in a process is enough
def _say_few(name: str, nfe: int, few: str) -> None:
    logger.warning("%s: %d evaluations are few for it; %s is for them", name, nfe, few)


def _with_noise(plan: Plan, noise: str) -> Plan:
    """Return the plan with its noise from where the caller said."""
    choose("noise", noise, dict.fromkeys(NOISES))
    if noise == "path":
        if not plan.stochastic:
            raise ValueError(f"sampler {plan.name!r} draws no noise here; leave out noise='path'")
        spans(plan)  # whether its steps are large enough
        plan = replace(plan, options=plan.options | {"noise": noise})
    return plan


def stated_omega(plan: Plan, schedule: NoiseSchedule) -> float:
    """Return the ω for which `compile_plan(…, omega=ω)` gives a plan's own guidance.

    Not always the mean over its steps, `plan.omega`: a rate's ω(σ) has its mean elsewhere.
    """
    if not plan.rate:
        return plan.omega
    return plan.scale * _unit(find(plan.name), schedule)


def _unit(recipe: Recipe, schedule: NoiseSchedule) -> float:
    """Return the CFG units in one unit of a rate's scale."""
    return guidance.mean_bell(schedule) if recipe.strength == "lambda" else 1.0


_GUIDANCE = ("shape", "interval", "cap")  # options of every rate
_OF_ALL = ("grid", "preset", "noise")
# what others call the arguments of `compile_plan`
_ELSEWHERE = {
    "cfg_guidance": "scale, or omega in CFG units",
    "guidance_scale": "omega",
    "num_inference_steps": "nfe",
    "steps": "nfe",
}


def _check_strength(recipe: Recipe, scale: float | None, omega: float | Rate | None) -> None:
    if scale is not None and omega is not None:
        raise ValueError(f"scale={scale} and omega={omega} both state the strength; pass one")
    usual = 1.0 if recipe.strength == "lambda" else LARGEST_LAMBDA  # few kicks may be larger
    if recipe.guidance == "cfg++" and isinstance(scale, Real) and scale > usual:
        logger.warning(
            "%s: scale=%g is CFG++'s λ, usually 0 to 1; for guidance as strong as CFG's ω = %g "
            "pass omega=%g (in an arm @w%g)",
            *(recipe.name, scale, scale, scale, scale),
        )


def _checked_guidance(
    recipe: Recipe,
    omega: float | Rate | None,
    shape: str | None,
    interval: tuple[float, float] | None,
    cap: float | None,
) -> dict[str, object]:
    """Return what the caller said about ω(σ), in plain Python values."""
    given = {"shape": shape, "interval": interval, "cap": cap}
    said = {name: value for name, value in given.items() if value is not None}
    if recipe.kicks and (said or callable(omega)):
        raise ValueError(
            f"sampler {recipe.name!r} adds a kick per step; it takes no shape, interval or cap, "
            "and no function as omega"
        )
    if "interval" in said:
        said["interval"] = pair("interval", interval)
    if "cap" in said:
        if not isinstance(cap, Real) or not cap > 0:
            raise ValueError(f"cap is {cap!r}; it must be a number above 0, or inf for no bound")
        said["cap"] = float(cap)
    return said


def _checked_options(recipe: Recipe, options: Mapping[str, object]) -> dict[str, object]:
    """Return the solver's options in plain Python values; numpy's may be float32."""
    known, options = recipe.options, dict(options)
    for name, value in options.items():
        if name not in known:
            takes = ", ".join([*known, *([] if recipe.kicks else _GUIDANCE), *_OF_ALL])
            hint = f"; it is {_ELSEWHERE[name]} here" if name in _ELSEWHERE else ""
            raise ValueError(
                f"sampler {recipe.name!r} takes no option {name}={value!r}{hint}; its options: "
                f"{takes}"
            )
        if isinstance(known[name], bool):
            options[name] = flag(name, value)
        elif isinstance(known[name], float):
            options[name] = finite(name, value)
        elif isinstance(known[name], tuple):
            options[name] = pair(name, value)
    if "order" in options:
        options["order"] = whole("order", options["order"], 1, 3)
    if options.get("eta", 0) < 0:
        raise ValueError(f"eta is {options['eta']}; it must be 0 (deterministic) or more")
    if not 0 <= options.get("history", 1) <= 1:
        raise ValueError(f"history is {options['history']}; it must be from 0 to 1")
    return options


def _order(recipe: Recipe, options: dict) -> int:
    """The declared order, as the options change it; a corrector adds one, up to 3.

    A noisy step with part of its history alone is of order 1, and so is one that also makes up for
    the step before it. (With the corrector the whole is of weak order 2, which no row shows.)
    """
    all_of_them = {**recipe.options, **options}
    corrector = bool(all_of_them.get("corrector"))
    if all_of_them.get("eta") and (corrector or all_of_them.get("history", 1) != 1):
        return 1
    return min(3, int(all_of_them.get("order", recipe.order)) + corrector)


def _rate(
    recipe: Recipe,
    schedule: NoiseSchedule,
    scale: float | None,
    omega: float | Rate | None,
    shape: str | Callable[[float], Rate] | None,
) -> tuple[float, Rate]:
    """Return scale and ω(σ) from whichever of scale, omega and shape the caller gave."""
    if callable(omega):
        if shape is not None:
            raise ValueError(
                f"omega is a function, so it is the rate ω(σ) itself; leave out "
                f"{'the preset' if callable(shape) else f'shape={shape!r}'}, or pass a number"
            )
        return 1.0, omega
    mean = guidance.mean_bell(schedule)
    shapes = {
        "constant": guidance.constant,
        "late": lambda w: guidance.late(schedule, w),
        "rising": lambda w: guidance.rising(schedule, w),
        "bell": lambda w: guidance.bell(schedule, w / mean),
    }
    make = shape if callable(shape) else choose("shape", shape or recipe.shape, shapes)
    unit = _unit(recipe, schedule)
    scale = _stated(recipe, scale, omega, unit)
    return scale, make(scale * unit)


def _kick_scale(
    recipe: Recipe,
    schedule: NoiseSchedule,
    stages: list[Stage],
    scale: float | None,
    omega: float | None,
) -> float:
    """Return the λ_cfg of a kick; its strength in CFG units is linear in it, on a given grid."""
    if omega is None:
        return _stated(recipe, scale, None, 1.0)
    rows = tuple(_kicked(recipe, schedule, stages, 1.0))
    return _stated(recipe, None, omega, Plan(recipe.name, rows, 1.0, 1, "cfg++", False, 1.0).omega)


def _stated(recipe: Recipe, scale: float | None, omega: float | None, unit: float) -> float:
    """Return the scale that the caller gave, itself or as an ω of `unit` CFG units each."""
    if omega is not None:
        return finite("scale", finite("omega", omega) / unit)
    return recipe.scale if scale is None else finite("scale", scale)


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
    cap: float,
    interval: tuple[float, float] | None,
) -> Iterator[Row]:
    """Integrate D_u + ω(σ)·Δ: each weight on D also weighs Δ, with the ω of that evaluation."""

    def weight(stage: Stage) -> float:
        if interval and not guidance.inside(interval, exp(-stage.at)):
            return 1.0
        omega = finite("omega(sigma)", rate(exp(-stage.at)))
        move = stage.carry
        # a carry that stays where the evaluation is made waits, or corrects the step before
        if stage.probe and (not move.gains or move.to == stage.at < stage.probe.to):
            move = stage.probe
        gain = abs(sum(move.gains))  # negative where an inversion runs upwards
        return guidance.bounded(omega, gain, exp(-move.to), cap) if gain else omega

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
