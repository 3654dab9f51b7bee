"""Stable Diffusion 1.5 and 2.x behind CFGpp's public API, sampled with plans from `samplers`.

    solver = get_solver("ddim_cfg++", solver_config={"num_sampling": 20})
    image = solver.sample(prompt=["", "a red fox in the snow"], cfg_guidance=0.6, seeds=42)

`get_solver("ddim_cfg++")` runs exp2m_cfg++, the second-order multistep CFG++ sampler; the original
first-order rule is "ddim_cfg++_first_order". Every other name of `samplers.available()` is a
solver too. Names and signatures are CFGpp's (arXiv:2406.08070); the code is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Dict, Optional  # noqa: UP035 (names that the benchmark region may use)

import torch
from tqdm import tqdm

from samplers import available, compile_plan, generators, read_cfg_guidance, trajectory
from samplers.errors import choose
from samplers.kdiffusion import append_zero, get_ancestral_step, get_sigmas_karras
from samplers.noise import standard_normal
from samplers.registry import find
from stable_diffusion import StableDiffusion

__all__ = [
    "BaseDDIM",
    "BaseDDIMCFGpp",
    "StableDiffusion",
    "append_zero",
    "get_ancestral_step",
    "get_sigmas_karras",
    "get_solver",
    "register_solver",
]
_SOLVERS: dict[str, type] = {}


def register_solver(name: str) -> Callable[[type], type]:
    """Register a solver class under a name; a name cannot be taken twice."""

    def wrapper(cls: type) -> type:
        if name in _SOLVERS:
            raise ValueError(f"solver {name!r} is registered already; choose another name")
        _SOLVERS[name] = cls
        return cls

    return wrapper


def get_solver(name: str, **kwargs: Any) -> StableDiffusion:
    """Construct a registered solver; a ValueError suggests the nearest name."""
    _register_recipes()
    return choose("solver", name, _SOLVERS)(**kwargs)


@register_solver("ddim")
class BaseDDIM(StableDiffusion):
    """Any named sampler behind CFGpp's `sample`; subclasses only choose the name."""

    sampler = "ddim"

    @torch.no_grad()
    def sample(
        self,
        cfg_guidance: float = 7.5,
        prompt: Sequence[str | Sequence[str]] = ("", ""),
        callback_fn: Callable | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return images (N, 3, H, W) in [0, 1] on the CPU.

        cfg_guidance  ω for CFG samplers; λ_cfg for CFG++ ones, above 2 read as ω
        prompt        [null prompt, prompt]; either may be a list, one per image
        callback_fn   (step, t, {"z0t", "zt", "decode"}) → the same dict; its "zt" replaces the
                      state and its last "z0t" the result
        seeds         one or a list, one per image; without it torch's global generator is used
        """
        uc, c = self.get_text_embed(null_prompt=prompt[0], prompt=prompt[1])
        zt = self.initialize_latent(uc=uc, c=c, **kwargs)
        nfe = len(self.scheduler.timesteps)
        strength = {"scale": cfg_guidance}
        if find(self.sampler).guidance == "cfg++":
            strength = read_cfg_guidance(cfg_guidance)
        plan = compile_plan(self.sampler, self.schedule, nfe, **strength)
        sources = self._sources(zt, self._seeds(uc=uc, c=c, **kwargs)) if plan.stochastic else None
        steps = trajectory(lambda z, t: self.predict_noise(z, t, uc, c), zt, plan, sources)
        for step in tqdm(steps, total=nfe, desc=self.sampler, leave=False):
            if callback_fn is not None:
                seen = {"z0t": step.denoised, "zt": step.latent, "decode": self.decode}
                seen = callback_fn(step.index, step.timestep, seen)
                step.latent = seen["z0t" if step.index == nfe - 1 else "zt"]
        return (self.decode(step.latent) / 2 + 0.5).clamp(0, 1).cpu()

    @staticmethod
    def _sources(zt: torch.Tensor, seeds: list[int | None]) -> list[torch.Generator]:
        """Return the images' generators, going on where the draw of the first latent stopped."""
        if None in seeds:
            return generators(torch.randint(2**62, (len(zt),)).tolist())
        sources = generators(seeds)
        standard_normal(zt.shape, sources)
        return sources


# >>> benchmark region
@register_solver("ddim_cfg++")
class BaseDDIMCFGpp(StableDiffusion):
    """exp2m_cfg++: a second-order multistep exponential integrator of CFG++-guided diffusion.

    Per network call, with x = z/α, σ = √((1 − ᾱ)/ᾱ), λ = −ln σ and h the step in λ:
    D = D_u + ω(σ)·(D_c − D_u),
    x' = e^{−h}·x + (1 − e^{−h})·D + (h − 1 + e^{−h})/h_prev·(D − D_prev).
    """

    def __init__(
        self,
        solver_config: Dict,  # noqa: UP006
        model_key: str = "runwayml/stable-diffusion-v1-5",
        device: Optional[torch.device] = None,  # noqa: UP045
        **kwargs,
    ):
        super().__init__(solver_config, model_key, device, **kwargs)

    @torch.no_grad()
    def sample(self, cfg_guidance=7.5, prompt=("", ""), callback_fn=None, **kwargs):
        """Return images in [0, 1]; cfg_guidance is λ_cfg up to 2, above that ω in CFG units."""
        from samplers import NoiseSchedule, compile_plan, read_cfg_guidance, trajectory

        uc, c = self.get_text_embed(null_prompt=prompt[0], prompt=prompt[1])
        zt = self.initialize_latent(uc=uc, c=c, **kwargs).detach()

        nfe = len(self.scheduler.timesteps)
        schedule = NoiseSchedule.from_scheduler(self.scheduler)
        plan = compile_plan("exp2m_cfg++", schedule, nfe, **read_cfg_guidance(cfg_guidance))

        def model(z, t):
            return self.predict_noise(z.to(self.dtype), t, uc, c)

        for step in tqdm(trajectory(model, zt, plan), total=nfe, desc="SD"):
            if callback_fn is not None:
                seen = {"z0t": step.denoised, "zt": step.latent, "decode": self.decode}
                seen = callback_fn(step.index, step.timestep, seen)
                step.latent = seen["z0t" if step.index == nfe - 1 else "zt"]

        img = self.decode(step.latent.to(self.dtype))
        return (img / 2 + 0.5).clamp(0, 1).cpu()


# <<< benchmark region


def _register_recipes() -> None:
    """Make every sampler of the registry a solver, those registered later too."""
    for name in (recipe.name for recipe in available()):
        if name not in _SOLVERS:
            register_solver(name)(type(f"Solver[{name}]", (BaseDDIM,), {"sampler": name}))


if __name__ == "__main__":
    _register_recipes()
    print("\n".join(_SOLVERS))
