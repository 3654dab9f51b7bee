"""What every loaded latent diffusion model offers CFGpp's solvers: schedule, VAE, noise, plans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from tqdm import tqdm

from pipelines.first_latent import FirstLatent
from pipelines.kdiffusion import KDiffusionTerms
from pipelines.loading import default_device, default_dtype
from pipelines.network import UNetCalls
from samplers import (
    NoiseSchedule,
    Plan,
    as_epsilon,
    generators,
    sample,
    standard_normal,
    trajectory,
)
from samplers.errors import whole
from samplers.loop import Model

logger = logging.getLogger(__name__)
DECODED_AT_ONCE = 8 * 512 * 512  # pixels


class LatentModel(FirstLatent, KDiffusionTerms, UNetCalls):
    """A loaded pipeline as CFGpp's solvers see it. Subclasses add text and `predict_noise`.

    device dtype vae unet scheduler  of the pipeline; `scheduler` holds CFGpp's shifted table
    total_alphas sigmas log_sigmas   the unshifted tables, (T,)
    schedule                         the same as `samplers` uses it, in float64
    evaluations unet_rows            network calls, and their rows, so far
    """

    def _adopt(
        self,
        pipe: DiffusionPipeline,
        model_key: str,
        solver_config: Any,
        device: torch.device,
        dtype: torch.dtype,
        spacing: str | None = None,
    ) -> None:
        """Take over a pipeline's networks and schedule, and set the number of steps.

        spacing  of the scheduler's own timesteps, if not the pipeline's: "trailing", "leading" …
        """
        self.device, self.dtype, self.model_key = device, dtype, model_key
        self.vae = pipe.vae.to(device).eval().requires_grad_(False)
        self.unet = pipe.unet.to(device).eval().requires_grad_(False)
        if device.type == "cuda":  # the layout that convolutions on tensor cores read
            for net in (self.vae, self.unet):
                net.to(memory_format=torch.channels_last)
        self.evaluations = self.unet_rows = 0

        _require_betas(pipe)
        spacing = spacing or pipe.scheduler.config.get("timestep_spacing", "leading")
        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
        self.prediction_type = self.scheduler.config.prediction_type
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self._epsilon = as_epsilon(self._network, self.prediction_type, self.schedule)
        total = self.schedule.num_timesteps
        steps = whole("num_sampling", _num_sampling(solver_config), 1, total)
        self.scheduler.set_timesteps(steps, device=device)
        # rounding gives "trailing" one timestep too many at some numbers of steps, such as 61
        self.scheduler.timesteps = self.scheduler.timesteps[:steps]
        self.skip = total // steps
        table = self.schedule.alphas_cumprod
        self.total_alphas = torch.tensor(table, dtype=torch.float32, device=device)
        self.sigmas = ((1 - self.total_alphas) / self.total_alphas).sqrt()
        self.log_sigmas = self.sigmas.log()
        self.final_alpha_cumprod = self.scheduler.final_alpha_cumprod.to(device)
        # As in CFGpp: alpha(t) reads the level before t, and alpha(0) is 1.
        one = torch.ones(1)
        self.scheduler.alphas_cumprod = torch.cat([one, self.scheduler.alphas_cumprod])

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.sample(*args, **kwargs)

    def sample(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} only loads a model; take a solver: get_solver"
        )

    def conditioned(self, prompts: Sequence[str], null_prompt: str = "") -> Model:
        """Return (z, t) → (ε_uncond, ε_cond) for these prompts, one per row of z.

        It has methods `uncond_row` and `cond_row`, which evaluate one row alone.
        """
        raise NotImplementedError

    def card(self) -> dict[str, str]:
        """Say what was loaded."""
        return {
            "model_key": self.model_key,
            "prediction_type": self.prediction_type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }

    def alpha(self, t: int) -> torch.Tensor:
        """Return ᾱ as CFGpp's DDIM rules read it: at t − 1, and at 0 for negative t."""
        return self.scheduler.alphas_cumprod[t] if t >= 0 else self.final_alpha_cumprod

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell and side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def _vae_dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in [−1, 1] to latents: the posterior's mean, so always the same.

        CFGpp draws a sample instead, so that its inversions differ from run to run.
        """
        posterior = self.vae.encode(x.to(self.device, self._vae_dtype)).latent_dist
        return posterior.mean.to(self.dtype) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, zt: torch.Tensor) -> torch.Tensor:
        """Map latents to images (B, 3, H, W), nominally in [−1, 1], float32.

        Large batches go through the decoder in slices, which bounds its memory.
        """
        zt = zt.to(self._vae_dtype) / self.vae.config.scaling_factor
        pixels = zt.shape[-2] * zt.shape[-1] * self.vae_scale_factor**2
        slices = zt.split(max(1, DECODED_AT_ONCE // pixels))
        return torch.cat([self.vae.decode(z).sample.float() for z in slices])

    def run(
        self,
        plan: Plan,
        zt: torch.Tensor,
        model: Model,
        callback_fn: Callable | None = None,
    ) -> torch.Tensor:
        """Run a plan with a progress bar and CFGpp's callbacks; return the final latent.

        callback_fn  (step, t, {"z0t", "zt", "decode"}) → a dict of what it changed, or None; its
                     "zt" replaces the state and its last "z0t" the result, unless the plan ends in
                     noise
        """
        steps, clean = trajectory(model, zt, plan), plan.end == 0
        # disable=None: no bar where stderr is a file
        for step in tqdm(steps, plan.name, plan.nfe, leave=False, disable=None):
            if callback_fn is not None:
                seen = {"z0t": step.denoised, "zt": step.latent, "decode": self.decode}
                seen |= callback_fn(step.index, step.timestep, seen) or {}
                step.latent = seen["z0t" if clean and step.index == plan.nfe - 1 else "zt"]
        return step.latent

    def generate(
        self,
        plan: Plan,
        prompts: Sequence[str],
        seeds: Sequence[int],
        null_prompt: str = "",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a plan for (prompt, seed) rows in one batch, at the model's own size.

        Returns final latents (N, 4, h, w) and images (N, 3, H, W) in [0, 1] on the CPU. Row k
        depends on prompts[k] and seeds[k] alone.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; pass one per image")
        z_T = standard_normal((len(seeds), *self.latent_shape), generators(seeds), self.device)
        latents = sample(self.conditioned(list(prompts), null_prompt), z_T, plan)
        images = (self.decode(latents) / 2 + 0.5).clamp(0, 1)
        return latents, images.cpu()


def _require_betas(pipe: DiffusionPipeline) -> None:
    """Raise ValueError for a scheduler that says nothing of ᾱ: DDIM's would invent one."""
    config = pipe.scheduler.config
    if config.get("beta_schedule") is None and config.get("trained_betas") is None:
        raise ValueError(
            f"the model's scheduler {type(pipe.scheduler).__name__} has no beta_schedule, so it is "
            "trained on other noise (EDM, flow matching); models with a table of betas are sampled "
            "here"
        )


def place(
    device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Fill in the device (cuda, else mps, else cpu) and dtype (float16 on CUDA, else float32)."""
    device = torch.device(device or default_device())
    dtype = default_dtype(device) if dtype is None else dtype
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}; pass one such as torch.float16")
    return device, dtype


def token_ids(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Return ids (N, length), padded and cut to the tokenizer's length; what is cut is logged."""
    longest = tokenizer.model_max_length
    for text, ids in zip(texts, tokenizer(list(texts), verbose=False).input_ids, strict=True):
        if len(ids) > longest:
            logger.warning("%d tokens, the last %d cut: %.60s…", len(ids), len(ids) - longest, text)
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def listed(texts: str | Sequence[str] | None) -> list[str]:
    if texts is None or isinstance(texts, str):
        return [texts or ""]
    if not len(texts):
        raise ValueError("a list of prompts is empty; give one text per image, or one for all")
    return list(texts)


def texts_of(prompt: Sequence[Any], *names: str, argument: str = "prompt") -> Sequence[Any]:
    """Return what was passed as a prompt; ValueError unless it has one entry per name."""
    if isinstance(prompt, str) or len(prompt) != len(names):
        raise ValueError(
            f"{argument} is {prompt!r}; pass [{', '.join(names)}], each a text or a list with one "
            "per image"
        )
    return prompt


def each(prompt: Sequence[Any], count: int) -> list[list[str]]:
    """Return a prompt's entries as lists of one text per image, each from one for all or a list.

    Raises ValueError where their number does not fit.
    """
    entries = [listed(texts) for texts in prompt]
    for given in entries:
        if len(given) not in (1, count):
            raise ValueError(
                f"{len(given)} prompts for {count} images; pass one for all or one each"
            )
    return [given * (count // len(given)) for given in entries]


def _num_sampling(solver_config: Any) -> Any:
    if isinstance(solver_config, dict):
        steps = solver_config.get("num_sampling")
    else:
        steps = getattr(solver_config, "num_sampling", None)
    if steps is None:
        raise ValueError(
            f"solver_config {solver_config!r} has no num_sampling; pass, for example, "
            '{"num_sampling": 20}'
        )
    return steps
