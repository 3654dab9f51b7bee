"""Stable Diffusion 1.5 and 2.x behind CFGpp's public API, sampled with plans from `samplers`.

    solver = get_solver("ddim_cfg++", solver_config={"num_sampling": 20})
    image = solver.sample(prompt=["", "a red fox in the snow"], cfg_guidance=0.6, seeds=42)

`get_solver("ddim_cfg++")` runs exp2m_cfg++, the multistep CFG++ sampler (of second order with
`eta=0`); the original first-order rule is "ddim_cfg++_first_order". Every other name of
`samplers.available()` is a solver too. Names and signatures are CFGpp's (arXiv:2406.08070); the
code is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Dict, Optional  # noqa: UP035 (names that the benchmark region may use)

import torch
from tqdm import tqdm

from pipelines.coupled_edit import CoupledEdit, doubled
from pipelines.kdiffusion import append_zero, get_ancestral_step, get_sigmas_karras
from pipelines.latent_model import each, texts_of
from pipelines.solver_table import SolverTable
from pipelines.stable_diffusion import StableDiffusion
from samplers import Plan, available

__all__ = [
    "BaseDDIM",
    "BaseDDIMCFGpp",
    "CoupledEditDDIM",
    "CoupledEditDDIMCFGpp",
    "EditWordSwapDDIM",
    "EditWordSwapDDIMCFGpp",
    "InversionDDIM",
    "InversionDDIMCFGpp",
    "StableDiffusion",
    "append_zero",
    "get_ancestral_step",
    "get_sigmas_karras",
    "get_solver",
    "register_solver",
]
_TABLE = SolverTable()
register_solver = _TABLE.register


def get_solver(name: str, **kwargs: Any) -> StableDiffusion:
    """Construct a registered solver; a ValueError suggests the nearest name."""
    _register_recipes()
    return _TABLE.get(name, **kwargs)


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
        null, prompt = texts_of(prompt, "null prompt", "prompt")
        uc, c = self.get_text_embed(null_prompt=null, prompt=prompt)
        zt = self.initialize_latent(uc=uc, c=c, cfg_guidance=cfg_guidance, **kwargs)
        plan = self.plan(self.sampler, cfg_guidance)
        return self._sampled(plan, zt, uc, c, callback_fn)

    def _sampled(
        self,
        plan: Plan,
        zt: torch.Tensor,
        uc: torch.Tensor,
        c: torch.Tensor,
        callback_fn: Callable | None,
    ) -> torch.Tensor:
        """Run a plan from a first latent to images."""
        z0 = self.run(plan, zt, self.given(uc, c), callback_fn)
        return (self.decode(z0) / 2 + 0.5).clamp(0, 1).cpu()


# >>> benchmark region
@register_solver("ddim_cfg++")
class BaseDDIMCFGpp(StableDiffusion):
    """exp2m_cfg++: a multistep exponential integrator of the CFG++-guided reverse SDE.

    Per network call, with x = z/α, σ = √((1 − ᾱ)/ᾱ), λ = −ln σ and g twice the step in λ:
    D = D_u + ω(σ)·(D_c − D_u), with an ω that grows as the noise falls,
    x' = e^{−g}·x + (1 − e^{−g})·D + ½·(g − 1 + e^{−g})/g_prev·(D − D_prev) + σ'·√(1 − e^{−g})·z.
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

        if isinstance(prompt, str) or len(prompt) != 2:
            raise ValueError(f"prompt is {prompt!r}; pass [null prompt, prompt]")
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
                seen |= callback_fn(step.index, step.timestep, seen) or {}
                step.latent = seen["z0t" if step.index == nfe - 1 else "zt"]

        img = self.decode(step.latent.to(self.dtype))
        return (img / 2 + 0.5).clamp(0, 1).cpu()


# <<< benchmark region


@register_solver("ddim_edit")
class EditWordSwapDDIM(BaseDDIM):
    """Change words: invert an image under its own prompt, sample it back under another one."""

    @torch.no_grad()
    def sample(
        self,
        src_img: torch.Tensor,
        cfg_guidance: float = 7.5,
        prompt: Sequence[str | Sequence[str]] = ("", "", ""),
        callback_fn: Callable | None = None,
        seeds: int | Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Return images (N, 3, H, W) in [0, 1] on the CPU.

        src_img       images (N, 3, H, W) in [−1, 1]
        prompt        [null prompt, source, target]; each may be a list, one per image
        cfg_guidance, callback_fn  as for `BaseDDIM.sample`, for inversion and sampling alike
        seeds         accepted without effect: nothing is random
        """
        z0 = self.encoded(src_img, "an edit changes")
        prompt = texts_of(prompt, "null prompt", "source", "target")
        null, source, target = each(prompt, len(z0))
        uc, c = self.get_text_embed(null_prompt=null, prompt=source)
        _, changed = self.get_text_embed(null_prompt=null, prompt=target)
        zt = self.inversion(z0, uc, c, cfg_guidance)
        plan = self.plan(self.sampler, cfg_guidance)
        return self._sampled(plan, zt, uc, changed, callback_fn)


@register_solver("coupled_edit")
class CoupledEditDDIM(CoupledEdit, BaseDDIM):
    """Change words, keep the rest: see `pipelines.coupled_edit`. Not one of CFGpp's solvers."""

    @torch.no_grad()
    def sample(
        self,
        src_img: torch.Tensor,
        cfg_guidance: float = 4.0,
        prompt: Sequence[str | Sequence[str]] = ("", "", ""),
        callback_fn: Callable | None = None,
        seeds: int | Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Return images as `EditWordSwapDDIM.sample` does, for the same arguments.

        seeds  one or a list, one per image; without it torch's global generator is used
        """
        z0 = self.encoded(src_img, "coupled_edit edits")
        uc, c = self.get_text_embed(*doubled(prompt, len(z0)))
        plan, seeds = self.plan(self.sampler, cfg_guidance), self._seeds(seeds, c=z0)
        z0 = self.coupled(plan, z0, self.given(uc, c), seeds, callback_fn)
        return (self.decode(z0) / 2 + 0.5).clamp(0, 1).cpu()


@register_solver("coupled_edit_cfg++")
class CoupledEditDDIMCFGpp(CoupledEditDDIM):
    """The same with CFG++."""

    sampler = "ddim_cfg++"


@register_solver("ddim_inversion")
class InversionDDIM(EditWordSwapDDIM):
    """Invert an image and sample it back: its reconstruction."""

    def sample(
        self,
        src_img: torch.Tensor,
        cfg_guidance: float = 7.5,
        prompt: Sequence[str | Sequence[str]] = ("", ""),
        callback_fn: Callable | None = None,
        seeds: int | Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Return images as `EditWordSwapDDIM.sample` does; prompt is [null prompt, prompt]."""
        null, source = texts_of(prompt[:2], "null prompt", "prompt")
        texts = (null, source, source)
        return super().sample(src_img, cfg_guidance, texts, callback_fn)


@register_solver("ddim_edit_cfg++")
class EditWordSwapDDIMCFGpp(EditWordSwapDDIM):
    """The same with CFG++ up and down (arXiv:2406.08070)."""

    sampler, inverse = "ddim_cfg++", "ddim_inversion_cfg++"


@register_solver("ddim_inversion_cfg++")
class InversionDDIMCFGpp(InversionDDIM):
    """The same with CFG++ up and down."""

    sampler, inverse = "ddim_cfg++", "ddim_inversion_cfg++"


def _register_recipes() -> None:
    """Make every sampler of the registry a solver, those registered later too."""
    for name in (recipe.name for recipe in available()):
        if name not in _TABLE.classes:
            register_solver(name)(type(f"Solver[{name}]", (BaseDDIM,), {"sampler": name}))


if __name__ == "__main__":
    _register_recipes()
    print("\n".join(_TABLE.classes))
