"""Names: a sampler is a recipe of solver, grid and guidance. To add one, register it here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from samplers import correctors, inversion, solvers
from samplers.errors import choose, finite, whole
from samplers.guidance import read_cfg_guidance
from samplers.solvers import Stage

_CHOICES = {  # of fields of a recipe
    "strength": ("omega", "lambda", "kick", "leaky_kick"),
    "timesteps": ("exact", "nearest", "after"),
    "start": ("vp", "ve", "clean"),
    "shape": ("constant", "late", "rising", "bell"),
}
_GIVEN = ("lam", "nfe")  # what `Recipe.stages` hands to a solver: no options of it


@dataclass(frozen=True)
class Recipe:
    """What a name stands for.

    strength   how guidance enters, and what `scale` therefore is. "omega", "lambda": a rate ω(σ),
               stated as CFG's ω or as CFG++'s λ_cfg; "kick": λ_cfg·Δ per step; "leaky_kick": as
               CFGpp's SD file adds it, where guidance leaks into 2M's history
    order      of the solver; for a kick it holds for D_u alone, since a kick has no limit
    defaults   options of the solver that are not as in its signature
    timesteps  what the network is told: the level's own "exact" timestep, the "nearest" whole one,
               or the one "after" it (CFGpp's shifted table)
    shape      of the rate ω(σ): "constant", "late", "rising" or "bell"
    cap        what bounds ω(σ) (`compile_plan`); None for no bound
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
    defaults: Mapping[str, object] = field(default_factory=dict)
    timesteps: str = "exact"
    start: str = "vp"
    shape: str = "constant"
    cap: float | None = None
    few: str | None = None
    evaluations_per_step: int = 1

    @property
    def guidance(self) -> str:
        return "cfg" if self.strength == "omega" else "cfg++"

    @property
    def kicks(self) -> bool:
        """Whether guidance is added per step, so that it is no rate ω(σ)."""
        return self.strength.endswith("kick")

    @property
    def scale(self) -> float:
        """The scale where a caller gives none: the original's."""
        return 7.5 if self.strength == "omega" else 0.6

    def read(self, cfg_guidance: float) -> dict[str, float]:
        """Return the strength that CFGpp's one number means: {"scale": …} or {"omega": …}."""
        if self.guidance == "cfg++":
            return read_cfg_guidance(cfg_guidance)
        return {"scale": finite("cfg_guidance", cfg_guidance)}

    @property
    def options(self) -> dict[str, object]:
        """The options that the solver takes beside the grid, with their defaults."""
        parameters = inspect.signature(self.solver).parameters
        own = {name: p.default for name, p in parameters.items() if name not in _GIVEN}
        return own | self.defaults

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

    def stages(self, lam: Sequence[float], nfe: int, **options: object) -> list[Stage]:
        """Return the solver's `nfe` stages on a grid of `steps(nfe)` + 1 half log-SNRs."""
        budget = {"nfe": nfe} if self.own_midpoints else {}
        return list(self.solver(lam, **budget, **{**self.defaults, **options}))

    @property
    def stochastic(self) -> bool:
        return bool(self.options.get("eta"))


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
    if not eta:
        return correctors.corrected(lam, order)
    return correctors.corrected_sde(solvers.exponential(lam, order, eta, window, history))


_RECIPES: dict[str, Recipe] = {}


def register(recipe: Recipe) -> Recipe:
    """Make a recipe available under its name; a name cannot be taken twice."""
    for name, known in _CHOICES.items():
        choose(name, getattr(recipe, name), dict.fromkeys(known))
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
    e, m2, s2, m3 = solvers.euler, solvers.dpmpp_2m, solvers.dpmpp_2s, solvers.dpmpp_3m
    a, s2a, up = solvers.ancestral, solvers.ancestral_2s, inversion.inverted_euler
    paper, dpm = "CFG++ arXiv:2406.08070", "DPM-Solver++ arXiv:2211.01095"
    noisy, twice = {"eta": 1.0}, {"evaluations_per_step": 2}
    nearest = {"timesteps": "nearest"}
    for recipe in (
        # the sampler that this project exists for, with what did best on development prompts
        # (docs/ablations.md); half of the noise for fewer than ten evaluations, since more cannot
        # be removed in so few
        Recipe("exp2m_cfg++", exp2m, "ays", "lambda", 1, "docs/method.md",
               {"eta": 1.0, "history": 0.5}, shape="late", cap=2.0, few="exp2m_cfg++_few"),
        Recipe("exp2m_cfg++_few", exp2m, "ays", "lambda", 1, "docs/ablations.md",
               {"eta": 0.5, "history": 0.5}, cap=2.0),
        # the benchmark's arms, as in the textbooks; a CFG++ arm is the solver on D_u plus a kick
        Recipe("ddim", e, "leading", "omega", 1, "DDIM arXiv:2010.02502"),
        Recipe("ddim_cfg++", e, "leading", "kick", 1, paper),
        Recipe("dpm2m", m2, "karras", "omega", 2, dpm),
        Recipe("dpm2m_cfg++", m2, "karras", "kick", 2, paper),
        Recipe("dpm2s", s2, "karras", "omega", 2, dpm, **twice),
        Recipe("dpm2s_cfg++", s2, "karras", "kick", 2, paper, **twice),
        Recipe("dpm3m_sde", m3, "karras", "omega", 2, "k-diffusion 3M SDE", noisy),
        Recipe("dpm3m_sde_cfg++", m3, "karras", "kick", 2, "k-diffusion 3M SDE", noisy),
        # other textbook methods
        Recipe("dpm3m", m3, "karras", "omega", 2, "k-diffusion 3M"),
        Recipe("res_2m", exp2m, "karras", "omega", 2, "RES arXiv:2308.02157"),
        Recipe("res_2m_cfg++", solvers.res_2m_shifted, "karras", "kick", 2, "ComfyUI"),
        Recipe("unipc", correctors.unipc, "karras", "omega", 3, "UniPC arXiv:2302.04867"),
        Recipe("exp3m", exp2m, "karras", "omega", 3, "exact weights, docs/method.md",
               {"order": 3}),
        # the original's names with the original's rules
        Recipe("euler", e, "karras_cfgpp", "omega", 1, "CFGpp", **nearest),
        Recipe("euler_cfg++", e, "karras_cfgpp", "kick", 1, "CFGpp", **nearest),
        Recipe("euler_a", a, "karras_cfgpp", "omega", 1, "CFGpp", **nearest),
        Recipe("euler_a_cfg++", a, "karras_cfgpp", "kick", 1, "CFGpp", **nearest),
        Recipe("ddim_cfg++_first_order", e, "leading_shifted", "kick", 1, paper,
               timesteps="after"),
        Recipe("dpm++_2s_a", s2a, "karras_cfgpp", "omega", 2, "CFGpp", **nearest, **twice),
        Recipe("dpm++_2s_a_cfg++", s2a, "karras_cfgpp", "kick", 2, "CFGpp", **nearest, **twice),
        Recipe("dpm++_2m", m2, "karras_cfgpp", "omega", 2, "CFGpp", **nearest),
        Recipe("dpm++_2m_cfg++", m2, "karras_cfgpp", "leaky_kick", 2, "CFGpp SD", **nearest),
        Recipe("dpm++_2m_cfgpp", m2, "karras_unfinished", "kick", 2, "CFGpp SDXL", **nearest,
               start="ve"),
        # from a clean latent up to the noise that `ddim` and `ddim_cfg++` start from
        Recipe("ddim_inversion", up, "leading", "omega", 1, "DDIM arXiv:2010.02502",
               start="clean"),
        Recipe("ddim_inversion_cfg++", up, "leading", "kick", 1, paper, start="clean"),
    ):  # fmt: skip
        register(recipe)


_register_all()
