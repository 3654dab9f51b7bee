"""Where a run begins: noise drawn from seeds, or a given image taken up to noise by inversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch

from samplers import (
    NoiseSchedule,
    Plan,
    compile_plan,
    generators,
    standard_normal,
)
from samplers.errors import choose
from samplers.registry import find

ELSEWHERE = {  # what belongs to the other kind of model
    "prompt": "SDXL takes prompt1",
    "prompt1": "SD takes prompt",
    "target_size": "SD takes latent_dim=(1, 4, height // 8, width // 8)",
}
SIGMAS = (14.6146,)  # what CFGpp takes for the first noise level where a caller gives none


class FirstLatent:
    """The part of a loaded model that makes first latents; `inverse` names the way back."""

    inverse = "ddim_inversion"

    device: torch.device
    schedule: NoiseSchedule
    encode: Callable[[torch.Tensor], torch.Tensor]

    def plan(self, sampler: str, cfg_guidance: float, grid: str | None = None) -> Plan:
        """Compile a sampler or an inversion at this model's number of evaluations.

        cfg_guidance  ω for CFG samplers; λ_cfg for CFG++ ones, above 2 read as ω
        grid          by default the sampler's own
        """
        strength = find(sampler).read(cfg_guidance)
        nfe = len(self.scheduler.timesteps)
        return compile_plan(sampler, self.schedule, nfe, grid=grid, **strength)

    @torch.no_grad()
    def inversion(
        self,
        z0: torch.Tensor,
        uc: torch.Tensor | None,
        c: torch.Tensor | None,
        cfg_guidance: float = 1.0,
        add_cond_kwargs: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the noise (B, 4, h, w) from which sampling at the same guidance returns to z0.

        That is sampling by the inversion's partner: `ddim`, whatever solver this is, and for those
        that name CFG++'s inversion (`inverse`), such as `ddim_edit_cfg++`, `ddim_cfg++`. Other
        samplers start from that noise, too, and come out elsewhere. As many evaluations as sampling
        makes. `add_cond_kwargs` is SDXL's.
        """
        added = {} if add_cond_kwargs is None else {"added_cond_kwargs": add_cond_kwargs}
        plan = self.plan(self.inverse, cfg_guidance)
        return self.run(plan, z0.to(self.device), self.given(uc, c, **added))

    def initialize_latent(
        self, method: str = "random", src_img: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return the first latent.

        method      "random": z ~ N(0, 1). "random_kdiffusion": √(1 + σ_0²)·z. "ddim": `src_img`
                    inverted with uc, c at cfg_guidance. "npi", negative-prompt inversion
                    (arXiv:2305.16807): inverted with the prompt alone, for sampling with the source
                    prompt in place of the null prompt
        src_img     images (B, 3, H, W) in [−1, 1], for "ddim" and "npi"
        latent_dim, size  the noise's shape; by default the model's own size. One row of it stands
                          for as many as there are seeds or embeddings
        seeds       a seed or a list, one per image: each image's noise depends on its seed alone;
                    without seeds torch's global generator is used
        uc, c       embeddings, which say how many images there are; add_cond_kwargs goes with SDXL
        sigmas      noise levels of "random_kdiffusion", the first counts
        """
        makers = {
            "random": self._noise,
            "random_kdiffusion": self._kdiffusion_noise,
            "ddim": self._inverted,
            "npi": self._inverted_with_prompt,
        }
        make = choose("method", method, makers)
        if make in (self._noise, self._kdiffusion_noise):
            return make(**kwargs)
        return make(self.encoded(src_img, f"method {method!r} inverts"), **kwargs)

    def encoded(self, src_img: torch.Tensor | None, use: str) -> torch.Tensor:
        """Return the latents of given images (B, 3, H, W); `use` says in an error what needs them.

        Raises ValueError for anything of another shape.
        """
        shape = getattr(src_img, "shape", ())
        if len(shape) != 4 or shape[1] != 3:
            given = f"a tensor {tuple(shape)}" if shape else repr(src_img)
            raise ValueError(
                f"{use} an image and src_img is {given}; pass a tensor (B, 3, H, W) in [-1, 1]"
            )
        if not src_img.is_floating_point():
            raise ValueError(
                f"{use} an image and src_img is {src_img.dtype}; pass src_img / 127.5 - 1, in "
                "[-1, 1]"
            )
        if any(side % self.vae_scale_factor for side in shape[2:]):
            raise ValueError(
                f"src_img is {shape[2]}×{shape[3]}; height and width must be multiples of "
                f"{self.vae_scale_factor} pixels"
            )
        if src_img.device.type == "cpu":  # elsewhere a look would hold up the device
            check_range(src_img)
        return self.encode(src_img)

    def _noise(
        self,
        seeds: int | Sequence[int] | None = None,
        uc: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        latent_dim: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        cfg_guidance: float | None = None,
        **unknown: Any,
    ) -> torch.Tensor:
        # a misspelt `seeds` would give other noise at every call, unnoticed
        _refuse(unknown, "noise takes seeds, latent_dim or size, uc, c")
        seeds = self._seeds(seeds, uc, c)
        rows, *shape = latent_dim or size or (1, *self.latent_shape)
        shape = (len(seeds) if rows == 1 else rows, *shape)
        if None in seeds:
            return torch.randn(shape).to(self.device)
        return standard_normal(shape, generators(seeds), self.device)

    def _kdiffusion_noise(self, sigmas: Sequence[float] = SIGMAS, **kw: Any) -> torch.Tensor:
        return self._noise(**kw) * kdiffusion_scale(sigmas)

    def _inverted(
        self,
        z0: torch.Tensor,
        uc: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        cfg_guidance: float = 0.0,
        add_cond_kwargs: dict[str, torch.Tensor] | None = None,
        **unknown: Any,
    ) -> torch.Tensor:
        _refuse(unknown, "an inversion takes uc, c, cfg_guidance, add_cond_kwargs")
        return self.inversion(z0, uc, c, cfg_guidance, add_cond_kwargs)

    def _inverted_with_prompt(self, z0: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self._inverted(z0, **{**kwargs, "uc": None, "cfg_guidance": 1.0})

    @staticmethod
    def _seeds(
        seeds: int | Sequence[int] | None = None,
        uc: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
    ) -> list[int | None]:
        """Return one seed per image: as many as there are seeds, or embeddings if more."""
        if isinstance(seeds, str):
            raise ValueError(f"seeds is {seeds!r}; pass a whole number, or a list of them")
        if isinstance(seeds, torch.Tensor):
            seeds = seeds.tolist()
        single = seeds is None or isinstance(seeds, Real)
        try:
            given = [seeds] if single else list(seeds)
        except TypeError:
            raise ValueError(
                f"seeds is a {type(seeds).__name__}; pass a whole number, or a list of them"
            ) from None
        if not given or (None in given and len(given) > 1):
            raise ValueError(f"seeds is {seeds!r}; pass a whole number for every image, or None")
        counts = {len(given), *(len(e) for e in (uc, c) if e is not None)}
        if counts - {1, max(counts)}:
            raise ValueError(
                f"{len(given)} seeds, {0 if uc is None else len(uc)} null prompts and "
                f"{0 if c is None else len(c)} prompts; pass as many of each, or one"
            )
        return given * (max(counts) // len(given))


def kdiffusion_scale(sigmas: Sequence[float] = SIGMAS) -> float:
    """Return the factor √(1 + σ_0²) of "random_kdiffusion"."""
    return (1 + float(sigmas[0]) ** 2) ** 0.5


def check_range(src_img: torch.Tensor) -> None:
    """Raise ValueError unless all values are finite and in [−1, 1]."""
    largest = float(src_img.detach().abs().max())
    if not largest <= 1 + 1e-3:
        raise ValueError(
            f"src_img has values up to {largest:.4g} in size; pass finite ones in [-1, 1]"
        )


def _refuse(unknown: dict[str, Any], known: str) -> None:
    if unknown:
        name = min(unknown)
        hint = f"; {ELSEWHERE[name]}" if name in ELSEWHERE else ""
        raise ValueError(f"unknown argument {name!r}; {known}{hint}")
