"""SDXL and SDXL-Lightning behind CFGpp's public API, sampled with plans from `samplers`.

    solver = get_solver("ddim_cfg++", solver_config={"num_sampling": 20})
    image = solver.sample(prompt1=["", "a red fox in the snow"], cfg_guidance=0.6, seeds=42)

`get_solver("ddim_cfg++")` runs exp2m_cfg++, the multistep CFG++ sampler (of second order with
`eta=0`); the original first-order rule is "ddim_cfg++_first_order". Every other name of
`samplers.available()` is a solver too. Names and signatures are CFGpp's (arXiv:2406.08070); the
code is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from pipelines.coupled_edit import CoupledEdit, doubled
from pipelines.latent_model import each, texts_of
from pipelines.lightning import SDXLLightning
from pipelines.solver_table import SolverTable
from pipelines.stable_diffusion_xl import SDXL
from samplers import available

__all__ = [
    "SDXL",
    "BaseDDIM",
    "BaseDDIMCFGpp",
    "BaseDDIMCFGppLight",
    "CoupledEditDDIM",
    "CoupledEditDDIMCFGpp",
    "EditWordSwapDDIM",
    "EditWordSwapDDIMCFGpp",
    "SDXLLightning",
    "get_solver",
    "register_solver",
]
_TABLE = SolverTable()
register_solver = _TABLE.register


def get_solver(name: str, **kwargs: Any) -> SDXL:
    """Construct a registered solver; a ValueError suggests the nearest name."""
    _register_recipes()
    return _TABLE.get(name, **kwargs)


@register_solver("ddim")
class BaseDDIM(SDXL):
    """Any named sampler behind CFGpp's `reverse_process`; subclasses choose name and grid."""

    sampler = "ddim"
    grid: str | None = None  # the sampler's own

    @torch.no_grad()
    def reverse_process(
        self,
        null_prompt_embeds: torch.Tensor,
        prompt_embeds: torch.Tensor,
        cfg_guidance: float,
        add_cond_kwargs: dict[str, torch.Tensor],
        shape: tuple[int, int] = (1024, 1024),
        callback_fn: Callable | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the final latents (N, 4, h, w) of images of `shape` (height, width) pixels."""
        uc, c = null_prompt_embeds, prompt_embeds
        size = (1, 4, *(n // self.vae_scale_factor for n in shape))
        zt = self.initialize_latent(size=size, uc=uc, c=c, **kwargs)
        plan = self.plan(self.sampler, cfg_guidance, grid=self.grid)
        model = self.given(uc, c, added_cond_kwargs=add_cond_kwargs)
        return self.run(plan, zt, model, callback_fn)


# >>> benchmark region
@register_solver("ddim_cfg++")
class BaseDDIMCFGpp(SDXL):
    """exp2m_cfg++: a multistep exponential integrator of the CFG++-guided reverse SDE.

    Per network call, with x = z/α, σ = √((1 − ᾱ)/ᾱ), λ = −ln σ and g twice the step in λ:
    D = D_u + ω(σ)·(D_c − D_u), with an ω that grows as the noise falls,
    x' = e^{−g}·x + (1 − e^{−g})·D + ½·(g − 1 + e^{−g})/g_prev·(D − D_prev) + σ'·√(1 − e^{−g})·z.
    """

    def reverse_process(
        self,
        null_prompt_embeds,
        prompt_embeds,
        cfg_guidance,
        add_cond_kwargs,
        shape=(1024, 1024),
        callback_fn=None,
        **kwargs,
    ):
        """Return the final latents; cfg_guidance is λ_cfg up to 2, above that ω in CFG units."""
        from samplers import NoiseSchedule, compile_plan, read_cfg_guidance, sdxl_family, trajectory

        # a distilled model knows no null prompt, and its own timesteps alone
        distilled = isinstance(self, SDXLLightning)
        uc, c = None if distilled else null_prompt_embeds, prompt_embeds
        size = (1, 4, *(n // self.vae_scale_factor for n in shape))
        zt = self.initialize_latent(size=size, uc=uc, c=c, **kwargs).detach()

        nfe = len(self.scheduler.timesteps)
        schedule = NoiseSchedule.from_scheduler(self.scheduler)
        schedule.family = sdxl_family(self.default_sample_size)
        grid = "trailing" if distilled else None
        strength = read_cfg_guidance(cfg_guidance)
        plan = compile_plan("exp2m_cfg++", schedule, nfe, grid=grid, **strength)

        def model(z, t):
            return self.predict_noise(z.to(self.dtype), t, uc, c, add_cond_kwargs)

        for step in tqdm(trajectory(model, zt, plan), total=nfe, desc="SDXL"):
            if callback_fn is not None:
                seen = {"z0t": step.denoised, "zt": step.latent, "decode": self.decode}
                seen |= callback_fn(step.index, step.timestep, seen) or {}
                step.latent = seen["z0t" if step.index == nfe - 1 else "zt"]

        return step.latent.to(self.dtype)


# <<< benchmark region


@register_solver("ddim_cfg++_lightning")
class BaseDDIMCFGppLight(BaseDDIMCFGpp, SDXLLightning):
    """The region's rule on a distilled model, which is exp2m without guidance."""


@register_solver("ddim_edit")
class EditWordSwapDDIM(BaseDDIM):
    """Change words: invert an image under its own prompt, sample it back under another one."""

    @torch.no_grad()
    def sample(
        self,
        src_img: torch.Tensor,
        prompt1: Sequence[str | Sequence[str]] = ("", "", ""),
        prompt2: Sequence[str | Sequence[str]] | None = None,
        cfg_guidance: float = 5.0,
        callback_fn: Callable | None = None,
        seeds: int | Sequence[int] | None = None,
        **sizes: Any,
    ) -> torch.Tensor:
        """Return images (N, 3, H, W) in [0, 1] on the CPU.

        src_img           images (N, 3, H, W) in [−1, 1]
        prompt1, prompt2  [null prompt, source, target] for the two text encoders
        cfg_guidance      as for `SDXL.sample`, for inversion and sampling alike
        seeds             accepted without effect: nothing is random
        sizes             the size conditioning of `SDXL.sample`; by default the image's own size
        """
        z0 = self.encoded(src_img, "an edit changes")
        sizes = {"target_size": tuple(src_img.shape[-2:]), **sizes}
        words = [
            each(texts_of(prompt, "null prompt", "source", "target", argument=name), len(z0))
            for name, prompt in (("prompt1", prompt1), ("prompt2", prompt2 or prompt1))
        ]
        (uc, c, added), (_, changed, added_changed) = (
            self.conditions(*([null, texts[k]] for null, *texts in words), **sizes) for k in (0, 1)
        )
        zt = self.inversion(z0, uc, c, cfg_guidance, added)
        model = self.given(uc, changed, added_cond_kwargs=added_changed)
        z0 = self.run(self.plan(self.sampler, cfg_guidance), zt, model, callback_fn)
        return (self.decode(z0) / 2 + 0.5).clamp(0, 1).cpu()


@register_solver("ddim_edit_cfg++")
class EditWordSwapDDIMCFGpp(EditWordSwapDDIM):
    """The same with CFG++ up and down (arXiv:2406.08070, section 4.2)."""

    sampler, inverse = "ddim_cfg++", "ddim_inversion_cfg++"


@register_solver("coupled_edit")
class CoupledEditDDIM(CoupledEdit, BaseDDIM):
    """Change words, keep the rest: see `pipelines.coupled_edit`. Not one of CFGpp's solvers."""

    @torch.no_grad()
    def sample(
        self,
        src_img: torch.Tensor,
        prompt1: Sequence[str | Sequence[str]] = ("", "", ""),
        prompt2: Sequence[str | Sequence[str]] | None = None,
        cfg_guidance: float = 4.0,
        callback_fn: Callable | None = None,
        seeds: int | Sequence[int] | None = None,
        **sizes: Any,
    ) -> torch.Tensor:
        """Return images as `EditWordSwapDDIM.sample` does, for the same arguments.

        seeds  one or a list, one per image; without it torch's global generator is used
        """
        z0 = self.encoded(src_img, "coupled_edit edits")
        sizes = {"target_size": tuple(src_img.shape[-2:]), **sizes}
        words = [prompt and doubled(prompt, len(z0)) for prompt in (prompt1, prompt2)]
        uc, c, added = self.conditions(*words, **sizes)
        model = self.given(uc, c, added_cond_kwargs=added)
        plan = self.plan(self.sampler, cfg_guidance)
        z0 = self.coupled(plan, z0, model, self._seeds(seeds, c=z0), callback_fn)
        return (self.decode(z0) / 2 + 0.5).clamp(0, 1).cpu()


@register_solver("coupled_edit_cfg++")
class CoupledEditDDIMCFGpp(CoupledEditDDIM):
    """The same with CFG++."""

    sampler = "ddim_cfg++"


def _solver(sampler: str, grid: str | None = None, *bases: type) -> type:
    chosen = {"sampler": sampler, "grid": grid}
    return type(f"Solver[{sampler}]", (BaseDDIM, *bases), chosen)


# CFGpp's SDXL file takes the scheduler's own timesteps for euler_cfg++; a distilled model needs
# the trailing ones, where it was trained.
register_solver("euler_cfg++")(_solver("euler_cfg++", "leading"))
for _name in ("ddim", "euler", "euler_cfg++", "dpm++_2m_cfgpp"):
    register_solver(f"{_name}_lightning")(_solver(_name, "trailing", SDXLLightning))


def _register_recipes() -> None:
    """Make every sampler of the registry a solver, those registered later too."""
    for name in (recipe.name for recipe in available()):
        if name not in _TABLE.classes:
            register_solver(name)(_solver(name))


if __name__ == "__main__":
    _register_recipes()
    print("\n".join(_TABLE.classes))
