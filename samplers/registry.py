"""Names: a sampler is a recipe of solver, grid and guidance. To add one, register it here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from samplers import correctors, inversion, solvers
from samplers.errors import choose, whole
from samplers.solvers import Stage

_GIVEN = ("lam", "nfe")  # what `compile_plan` hands to a solver: no options of it


@dataclass(frozen=True)
class Recipe:
    """What a name stands for.

    order      of the solver; for a kick it holds for D_u alone, since a kick has no limit
    strength   "constant", "bell", "late" and "rising" are rates ω(σ); "kick" adds λ_cfg·Δ per step,
               "leaky_kick" as CFGpp's SD file does, where guidance leaks into 2M's history
    timesteps  what the network is told: the level's own "exact" timestep, the "nearest" whole one,
               or the one "after" it (CFGpp's shifted table)
    shape      of the rate ω(σ) where it is not that of `strength`, which then sets the scale's unit
    kick       what bounds the shape of ω(σ) (`compile_plan`); None for no bound
    few        the sampler that is meant for fewer evaluations than this one can do with
    start      first state √(1 + σ_0²)·z ("vp") or σ_0·z ("ve") of noise z; or a "clean" latent
               itself, which an inversion takes up to noise
    """

    name: str
    solver: Callable[..., Iterator[Stage]]
    grid: str
    strength: str
    order: int
    source: str
    scale: float
    timesteps: str = "exact"
    start: str = "vp"
    shape: str | None = None
    kick: float | None = None
    few: str | None = None

    @property
    def guidance(self) -> str:
        return "cfg" if self.strength in ("constant", "late", "rising") else "cfg++"

    @property
    def options(self) -> dict[str, object]:
        """The options that the solver takes beside the grid, with their defaults."""
        parameters = inspect.signature(self.solver).parameters
        return {name: p.default for name, p in parameters.items() if name not in _GIVEN}

    @property
    def inverts(self) -> bool:
        """Whether this is an inversion: from a clean latent to noise, on the same grid upwards."""
        return self.start == "clean"

    @property
    def own_midpoints(self) -> bool:
        """Whether steps evaluate between the grid's levels, so that the grid has fewer steps."""
        return "nfe" in inspect.signature(self.solver).parameters

    def steps(self, nfe: int) -> int:
        """The number of steps of the grid for `nfe` evaluations."""
        return nfe // 2 + 1 if self.own_midpoints else nfe

    @property
    def stochastic(self) -> bool:
        return bool(self.options.get("eta"))

    @property
    def evaluations_per_step(self) -> int:
        return 2 if self.solver in (solvers.dpmpp_2s, solvers.ancestral_2s) else 1


def exp2m(
    lam: Sequence[float],
    order: int = 2,
    eta: float = 0.0,
    window: tuple[float, float] = (0.0, inf),
    corrector: bool = False,
    history: float = 1.0,
) -> Iterator[Stage]:
    """The exponential multistep family as one solver: `exponential`, or `corrected` on request."""
    order = whole("order", order, 1, 3)
    if not corrector:
        return solvers.exponential(lam, order, eta, window, history)
    if eta:
        raise ValueError(
            f"eta={eta} with corrector=True: the corrector is for eta=0 only; pass eta=0"
        )
    return correctors.corrected(lam, order)


def exp2m_cfgpp(
    lam: Sequence[float],
    order: int = 2,
    eta: float = 1.0,
    window: tuple[float, float] = (0.0, inf),
    corrector: bool = False,
    history: float = 0.5,
) -> Iterator[Stage]:
    """`exp2m` with the defaults that did best on development prompts (docs/ablations.md)."""
    return exp2m(lam, order, eta, window, corrector, history)


def exp2m_few(
    lam: Sequence[float], order: int = 2, eta: float = 0.5, history: float = 0.5
) -> Iterator[Stage]:
    """Half of the noise, for fewer than ten evaluations: more cannot be removed in so few."""
    return exp2m(lam, order, eta, history=history)


def _sde_3m(lam: Sequence[float], eta: float = 1.0) -> Iterator[Stage]:
    return solvers.dpmpp_3m(lam, eta)


_RECIPES: dict[str, Recipe] = {}


def register(recipe: Recipe) -> Recipe:
    """Make a recipe available under its name; a name cannot be taken twice."""
    if recipe.name in _RECIPES:
        raise ValueError(f"sampler {recipe.name!r} is registered already; choose another name")
    _RECIPES[recipe.name] = recipe
    return recipe


def find(name: str) -> Recipe:
    """Return the recipe of a name; a ValueError suggests the nearest one."""
    return choose("sampler", name, _RECIPES)


def available(kind: str = "sampling") -> list[Recipe]:
    """Return every registered recipe of a kind, "sampling" or "inversion", in order."""
    inverts = choose("kind", kind, {"sampling": False, "inversion": True})
    return [recipe for recipe in _RECIPES.values() if recipe.inverts == inverts]


def _register_all() -> None:
    e, m2, s2, a = solvers.euler, solvers.dpmpp_2m, solvers.dpmpp_2s, solvers.ancestral
    s2a, up = solvers.ancestral_2s, inversion.inverted_euler
    paper = "CFG++ arXiv:2406.08070"
    for recipe in (
        # the sampler that this project exists for
        Recipe("exp2m_cfg++", exp2m_cfgpp, "karras", "bell", 1, "docs/method.md", 0.6,
               shape="late", kick=2.0, few="exp2m_cfg++_few"),
        Recipe("exp2m_cfg++_few", exp2m_few, "ays_sd15", "bell", 1, "docs/ablations.md", 0.6,
               shape="constant"),
        # the benchmark's arms, as in the textbooks; a CFG++ arm is the solver on D_u plus a kick
        Recipe("ddim", e, "leading", "constant", 1, "DDIM arXiv:2010.02502", 7.5),
        Recipe("ddim_cfg++", e, "leading", "kick", 1, paper, 0.6),
        Recipe("dpm2m", m2, "karras", "constant", 2, "DPM-Solver++ arXiv:2211.01095", 7.5),
        Recipe("dpm2m_cfg++", m2, "karras", "kick", 2, paper, 0.6),
        Recipe("dpm2s", s2, "karras", "constant", 2, "DPM-Solver++ arXiv:2211.01095", 7.5),
        Recipe("dpm2s_cfg++", s2, "karras", "kick", 2, paper, 0.6),
        Recipe("dpm3m_sde", _sde_3m, "karras", "constant", 2, "k-diffusion 3M SDE", 7.5),
        Recipe("dpm3m_sde_cfg++", _sde_3m, "karras", "kick", 2, "k-diffusion 3M SDE", 0.6),
        # other textbook methods
        Recipe("dpm3m", solvers.dpmpp_3m, "karras", "constant", 2, "k-diffusion 3M", 7.5),
        Recipe("res_2m", exp2m, "karras", "constant", 2, "RES arXiv:2308.02157", 7.5),
        Recipe("res_2m_cfg++", solvers.res_2m_shifted, "karras", "kick", 2, "ComfyUI", 0.6),
        Recipe("unipc", correctors.unipc, "karras", "constant", 3, "UniPC arXiv:2302.04867", 7.5),
        Recipe("exp3m", _third, "karras", "constant", 3, "exact weights, docs/method.md", 7.5),
        # the original's names with the original's rules
        Recipe("euler", e, "karras_cfgpp", "constant", 1, "CFGpp", 7.5, "nearest"),
        Recipe("euler_cfg++", e, "karras_cfgpp", "kick", 1, "CFGpp", 0.6, "nearest"),
        Recipe("euler_a", a, "karras_cfgpp", "constant", 1, "CFGpp", 7.5, "nearest"),
        Recipe("euler_a_cfg++", a, "karras_cfgpp", "kick", 1, "CFGpp", 0.6, "nearest"),
        Recipe("ddim_cfg++_first_order", e, "leading_shifted", "kick", 1, paper, 0.6, "after"),
        Recipe("dpm++_2s_a", s2a, "karras_cfgpp", "constant", 2, "CFGpp", 7.5, "nearest"),
        Recipe("dpm++_2s_a_cfg++", s2a, "karras_cfgpp", "kick", 2, "CFGpp", 0.6, "nearest"),
        Recipe("dpm++_2m", m2, "karras_cfgpp", "constant", 2, "CFGpp", 7.5, "nearest"),
        Recipe("dpm++_2m_cfg++", m2, "karras_cfgpp", "leaky_kick", 2, "CFGpp SD", 0.6, "nearest"),
        Recipe("dpm++_2m_cfgpp", m2, "karras_unfinished", "kick", 2, "CFGpp SDXL", 0.6,
               "nearest", "ve"),
        # from a clean latent up to the noise that `ddim` and `ddim_cfg++` start from
        Recipe("ddim_inversion", up, "leading", "constant", 1, "DDIM arXiv:2010.02502", 7.5,
               start="clean"),
        Recipe("ddim_inversion_cfg++", up, "leading", "kick", 1, paper, 0.6, start="clean"),
    ):  # fmt: skip
        register(recipe)


def _third(lam: Sequence[float]) -> Iterator[Stage]:
    return solvers.exponential(lam, 3)


_register_all()
