"""A loaded Stable Diffusion 1.x or 2.x model with what CFGpp's solvers ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler

from pipelines import default_device, load_pipeline
from samplers import NoiseSchedule, Plan, as_epsilon, generators, sample, standard_normal
from samplers.errors import choose, whole
from samplers.kdiffusion import get_ancestral_step


class StableDiffusion:
    """A loaded model with what CFGpp's solvers offer: embeddings, noise prediction, VAE, schedule.

    solver_config  has `num_sampling`, the number of evaluations: an attribute or a dict's key
    model_key      hub id or folder in the diffusers format; deleted ids fall back to their mirrors
    device         default: cuda, else mps, else cpu
    pipe_dtype     default: float16 on CUDA, float32 elsewhere
    """

    def __init__(
        self,
        solver_config: Any,
        model_key: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        device: torch.device | str | None = None,
        **kwargs: Any,
    ):
        steps = (
            solver_config.get("num_sampling")
            if isinstance(solver_config, dict)
            else getattr(solver_config, "num_sampling", None)
        )
        if steps is None:
            raise ValueError(
                f"solver_config {solver_config!r} has no num_sampling; pass, for example, "
                '{"num_sampling": 20}'
            )
        self.device = torch.device(device or default_device())
        self.dtype = kwargs.pop("pipe_dtype", None) or (
            torch.float16 if self.device.type == "cuda" else torch.float32
        )
        if kwargs:
            raise TypeError(f"unknown arguments {', '.join(kwargs)}; known: pipe_dtype")
        pipe, self.model_key = load_pipeline(model_key, self.dtype)
        self.vae = pipe.vae.to(self.device).eval().requires_grad_(False)
        self.text_encoder = pipe.text_encoder.to(self.device, self.dtype).eval()
        self.unet = pipe.unet.to(self.device).eval().requires_grad_(False)
        self.tokenizer = pipe.tokenizer
        self.evaluations = 0

        self.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self.prediction_type = self.scheduler.config.prediction_type
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self._epsilon = as_epsilon(self._network, self.prediction_type, self.schedule)
        total = self.schedule.num_timesteps
        steps = whole("num_sampling", steps, 1, total)
        self.scheduler.set_timesteps(steps, device=self.device)
        self.skip = total // steps
        self.total_alphas = self.scheduler.alphas_cumprod.clone().to(self.device)
        self.sigmas = ((1 - self.total_alphas) / self.total_alphas).sqrt()
        self.log_sigmas = self.sigmas.log()
        self.final_alpha_cumprod = self.scheduler.final_alpha_cumprod.to(self.device)
        # As in CFGpp: alpha(t) reads the level before t, and alpha(0) is 1.
        one = torch.ones(1)
        self.scheduler.alphas_cumprod = torch.cat([one, self.scheduler.alphas_cumprod])

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.sample(*args, **kwargs)

    def sample(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError("StableDiffusion only loads a model; take a solver: get_solver")

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

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> torch.Tensor:
        ids = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self.device))[0]

    def get_text_embed(
        self, null_prompt: str | Sequence[str], prompt: str | Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (uncond, cond) embeddings (N, tokens, width), one row for each given text."""
        null = [null_prompt] if isinstance(null_prompt, str) else list(null_prompt)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        return self._embed(null), self._embed(texts)

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in [−1, 1] to latents, a sample of the posterior."""
        x = x.to(self.device, self.dtype)
        return self.vae.encode(x).latent_dist.sample() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, zt: torch.Tensor) -> torch.Tensor:
        """Map latents to images (B, 3, H, W), nominally in [−1, 1], float32."""
        return self.vae.decode(zt.to(self.dtype) / self.vae.config.scaling_factor).sample.float()

    def predict_noise(
        self,
        zt: torch.Tensor,
        t: torch.Tensor,
        uc: torch.Tensor | None,
        c: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (ε_uncond, ε_cond) for latents (B, 4, h, w) at one timestep, in one network call.

        uc, c  embeddings with B rows or one row for all; None evaluates the other alone and
               returns it twice. v-predictions are converted.
        """
        self.evaluations += 1
        rows = [e.expand(zt.shape[0], -1, -1) for e in (uc, c) if e is not None]
        if not rows:
            raise ValueError("predict_noise needs uc, c or both; both are None")

        return self._epsilon(zt, t, rows)

    def _network(
        self, z: torch.Tensor, t: torch.Tensor, rows: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        z_in = torch.cat([z.to(self.dtype)] * len(rows))
        out = self.unet(z_in, t, encoder_hidden_states=torch.cat(rows), return_dict=False)[0]
        parts = out.chunk(len(rows))
        return parts[0], parts[-1]

    def initialize_latent(
        self, method: str = "random", src_img: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Draw the first latent: "random" is z ~ N(0, 1), "random_kdiffusion" √(1 + σ_0²)·z.

        latent_dim  its shape; by default the model's own size, one row per seed or embedding
        seeds       a seed or a list, one per image: each image's noise depends on its seed alone;
                    without seeds torch's global generator is used
        uc, c       embeddings, which say how many images there are
        src_img     part of CFGpp's signature; no method here uses it
        sigmas      noise levels of "random_kdiffusion", the first counts
        """
        scale = {
            "random": lambda: 1.0,
            "random_kdiffusion": lambda: (
                (1 + float(kwargs.get("sigmas", [14.6146])[0]) ** 2) ** 0.5
            ),
        }
        factor = choose("method", method, scale)()
        seeds = self._seeds(**kwargs)
        shape = kwargs.get("latent_dim", (len(seeds), *self.latent_shape))
        if None in seeds:
            return torch.randn(shape).to(self.device) * factor
        return standard_normal(shape, generators(seeds), self.device) * factor

    @staticmethod
    def _seeds(
        seeds: int | Sequence[int] | None = None,
        uc: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        **_: Any,
    ) -> list[int | None]:
        """Return one seed per image: as many as there are seeds, or embeddings if more."""
        given = [seeds] if seeds is None or isinstance(seeds, int) else list(seeds)
        counts = {len(given), *(len(e) for e in (uc, c) if e is not None)}
        if counts - {1, max(counts)}:
            raise ValueError(
                f"{len(given)} seeds, {0 if uc is None else len(uc)} null prompts and "
                f"{0 if c is None else len(c)} prompts; pass as many of each, or one"
            )
        return given * (max(counts) // len(given))

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the whole timestep nearest in ln σ."""
        distance = sigma.log().to(self.device).reshape(1, -1) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape).to(sigma.device)

    def to_d(self, x: torch.Tensor, sigma: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        """Return ε = dx/dσ of the probability-flow ODE in VE units."""
        return (x - denoised) / sigma

    def get_ancestral_step(
        self, sigma_from: float, sigma_to: float, eta: float = 1.0
    ) -> tuple[float, float]:
        """Return (σ_down, σ_up); see `samplers.kdiffusion.get_ancestral_step`."""
        return get_ancestral_step(sigma_from, sigma_to, eta)

    def calculate_input(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the network's VP input α·x of a VE state."""
        return x / (sigma**2 + 1) ** 0.5

    def calculate_denoised(
        self, x: torch.Tensor, model_pred: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Return the clean estimate x − σ·ε of a VE state."""
        return x - model_pred * sigma

    def kdiffusion_x_to_denoised(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        uc: torch.Tensor,
        c: torch.Tensor,
        cfg_guidance: float,
        t: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (guided, unconditional) clean estimates of a VE state at noise level σ."""
        noise_uc, noise_c = self.predict_noise(self.calculate_input(x, sigma), t, uc, c)
        guided = noise_uc + cfg_guidance * (noise_c - noise_uc)
        return (
            self.calculate_denoised(x, guided, sigma),
            self.calculate_denoised(x, noise_uc, sigma),
        )

    def generate(
        self,
        plan: Plan,
        prompts: Sequence[str],
        seeds: Sequence[int],
        null_prompt: str = "",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a plan for (prompt, seed) rows in one batch.

        Returns final latents (N, 4, h, w) and images (N, 3, H, W) in [0, 1] on the CPU. Row k
        depends on prompts[k] and seeds[k] alone.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; pass one per image")
        uc, c = self.get_text_embed(null_prompt, list(prompts))
        sources = generators(seeds)
        z_T = standard_normal((len(seeds), *self.latent_shape), sources, self.device)
        latents = sample(lambda z, t: self.predict_noise(z, t, uc, c), z_T, plan, sources)
        images = (self.decode(latents) / 2 + 0.5).clamp(0, 1)
        return latents, images.cpu()
