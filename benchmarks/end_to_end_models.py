"""The ways of drawing that `benchmarks.end_to_end` compares, on one set of networks.

ours      a plan for the whole batch, `LatentModel.generate`
compiled  the same after `compile_unet`
stock     diffusers' own pipeline with DPMSolverMultistep, the same batch
one       image by image, text encoded for each, as CFGpp's scripts do: DDIM, guidance in one
          call of two rows, plain operators
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from benchmarks.sizes import TOKENS, UNETS, VAE
from latent_diffusion import StableDiffusion
from latent_sdxl import SDXL
from pipelines.latent_model import LatentModel
from pipelines.loading import PRECISION
from pipelines.network import Conditioned
from samplers import compile_plan, generators, standard_normal

OMEGA = 7.5
GRID = {
    "use_karras_sigmas": True,
    "final_sigmas_type": "zero",
}  # as the plan's: karras, ending in 0
SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
RANDOM = {"sd15": "SD 1.5", "sdxl": "SDXL"}  # sizes with random weights: name in benchmarks.sizes
STANDINS = Path(__file__).resolve().parents[1] / "standins"
Draw = Callable[[Sequence[str], Sequence[int], int], torch.Tensor]  # prompts, seeds, NFE → images


class RandomWeights(LatentModel):
    """Networks of a real model's size with random weights; the text is random embeddings.

    Timing needs no trained weights, and without text encoders no file is needed at all.
    """

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype):
        side, width, options = UNETS[RANDOM.get(size, size)]
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                unet = UNet2DConditionModel(
                    sample_size=side, cross_attention_dim=width, **options
                ).eval()
                # As ours decodes; by default the stock SDXL pipeline alone would move a float16 VAE
                # to float32 and back on every call. `SDXL`, as stock, keeps to a VAE's own setting.
                vae = AutoencoderKL(**VAE, force_upcast=False).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        scheduler = DPMSolverMultistepScheduler(**SD, **GRID)
        extra = dict.fromkeys(("text_encoder", "tokenizer"))
        if "addition_embed_type" in options:
            extra |= dict.fromkeys(("text_encoder_2", "tokenizer_2"))
            self.pipe = StableDiffusionXLPipeline(vae, unet=unet, scheduler=scheduler, **extra)
        else:
            extra |= dict.fromkeys(("safety_checker", "feature_extractor"))
            self.pipe = StableDiffusionPipeline(
                vae, unet=unet, scheduler=scheduler, requires_safety_checker=False, **extra
            )
        self._adopt(self.pipe, f"random-{size}", {"num_sampling": 20}, device, dtype)
        draw = torch.Generator().manual_seed(0)
        embeddings = torch.randn(2, 1, TOKENS, width, generator=draw)
        self.uc, self.c = embeddings.to(device, dtype)
        self.added = None
        if "text_encoder_2" in extra:
            pooled = torch.randn(2, 1280, generator=draw).to(device, dtype)
            pixels = side * self.vae_scale_factor
            ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]], device=device, dtype=dtype)
            self.added = {"text_embeds": pooled, "time_ids": ids.expand(2, -1)}

    def conditioned(self, prompts: Sequence[str], null_prompt: str = "") -> Conditioned:
        def predict(z, t, uc, c):
            present = [k for k, e in enumerate((uc, c)) if e is not None]
            added = self.added and {
                name: torch.cat([rows[k : k + 1].expand(len(z), -1) for k in present])
                for name, rows in self.added.items()
            }
            return self._predict(z, t, uc, c, added)

        return Conditioned(predict, self.uc, self.c)

    def pipeline_inputs(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the stock pipeline takes instead of prompts."""
        n = len(prompts)
        named = {"negative_prompt_embeds": self.uc, "prompt_embeds": self.c}
        inputs = {name: e.expand(n, -1, -1) for name, e in named.items()}
        if self.added:
            null, cond = self.added["text_embeds"].unsqueeze(1).expand(-1, n, -1)
            inputs |= {"negative_pooled_prompt_embeds": null, "pooled_prompt_embeds": cond}
        return inputs


def load(size: str, device: torch.device, dtype: torch.dtype) -> tuple[LatentModel, Draw]:
    """Return a model and its stock pipeline's way of drawing.

    size  "sd15", "sdxl": real sizes, random weights. "standin-…": a stand-in of this repository
    """
    if size in RANDOM:
        model = RandomWeights(size, device, dtype)
        return model, stock(model.pipe, model.pipeline_inputs)
    folder = STANDINS / size.removeprefix("standin-")
    options = {"num_sampling": 20}, str(folder)
    if "sdxl" in size:
        model = SDXL(*options, dtype=dtype, device=device)
    else:
        model = StableDiffusion(*options, device=device, pipe_dtype=dtype)
    precision = {PRECISION: dtype}  # under another name older diffusers would ignore it
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **precision).to(device)
    return model, stock(pipe, lambda prompts: {"prompt": list(prompts)})


def stock(pipe: DiffusionPipeline, inputs: Callable[[Sequence[str]], dict]) -> Draw:
    """diffusers' pipeline as its documentation calls it; pictures as a tensor, not as PIL."""
    config = pipe.scheduler.config
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(config, **GRID)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompts: Sequence[str], seeds: Sequence[int], nfe: int) -> torch.Tensor:
        return pipe(
            **inputs(prompts),
            guidance_scale=OMEGA,
            num_inference_steps=nfe,
            generator=generators(seeds),
            output_type="pt",
        ).images.cpu()

    return draw


def ours(model: LatentModel) -> Draw:
    def draw(prompts: Sequence[str], seeds: Sequence[int], nfe: int) -> torch.Tensor:
        plan = compile_plan("dpm2m", model.schedule, nfe, scale=OMEGA)
        return model.generate(plan, prompts, seeds)[1]

    return draw


def one(model: LatentModel) -> Draw:
    @torch.no_grad()
    def draw(prompts: Sequence[str], seeds: Sequence[int], nfe: int) -> torch.Tensor:
        table, images = model.total_alphas, []
        skip = len(table) // nfe
        for prompt, seed in zip(prompts, seeds, strict=True):
            if hasattr(model, "_texts"):
                model._texts.clear()
            network = model.conditioned([prompt])
            z = standard_normal((1, *model.latent_shape), generators([seed]), model.device)
            for t in range((nfe - 1) * skip + 1, 0, -skip):
                at, after = table[t], table[t - skip] if t > skip else model.final_alpha_cumprod
                noise_uc, noise_c = network(z, torch.tensor(float(t), device=model.device))
                noise = noise_uc + OMEGA * (noise_c - noise_uc)
                z0 = (z - (1 - at).sqrt() * noise) / at.sqrt()
                z = after.sqrt() * z0 + (1 - after).sqrt() * noise
            images.append((model.decode(z) / 2 + 0.5).clamp(0, 1).cpu())
        return torch.cat(images)

    return draw
