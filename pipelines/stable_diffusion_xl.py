"""A loaded SDXL model with what CFGpp's solvers ask of it, two text encoders and all."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from pipelines.latent_model import LatentModel, listed, place, texts_of, token_ids
from pipelines.loading import load_pipeline, load_vae
from pipelines.places import FP16_VAE, places
from pipelines.text_cache import TextCache
from samplers.loop import Model, Pair
from samplers.schedule import sdxl_family

BASE = "stabilityai/stable-diffusion-xl-base-1.0"
Size = tuple[int, int]


class SDXL(LatentModel):
    """A loaded SDXL pipeline: two text encoders, pooled embedding, time ids.

    solver_config  has `num_sampling`, the number of evaluations: an attribute or a dict's key
    model_key      hub id or folder in the diffusers format
    dtype          default: float16 on CUDA, float32 elsewhere
    device         default: cuda, else mps, else cpu
    vae_key        id or folder of another VAE. Default: in float16 the repaired VAE for hub ids,
                   otherwise the pipeline's own, which runs in float32 where it says that it must
    """

    def __init__(
        self,
        solver_config: Any,
        model_key: str = BASE,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        vae_key: str | None = None,
    ):
        device, dtype = place(device, dtype)
        vae = other_vae(vae_key, model_key, dtype)
        pipe, found = load_pipeline(model_key, dtype, "sdxl", **vae)
        self._adopt(pipe, found, solver_config, device, dtype)

    def _adopt(self, pipe, model_key, solver_config, device, dtype, spacing=None) -> None:
        super()._adopt(pipe, model_key, solver_config, device, dtype, spacing)
        if dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae.to(torch.float32)
        self.tokenizer_1, self.tokenizer_2 = pipe.tokenizer, pipe.tokenizer_2
        self.text_enc_1 = pipe.text_encoder.to(device, dtype).eval()
        self.text_enc_2 = pipe.text_encoder_2.to(device, dtype).eval()
        self.default_sample_size = self.latent_shape[1]
        self.schedule.family = sdxl_family(self.default_sample_size)
        self._texts = TextCache(self._embed, lambda: [self.text_enc_1, self.text_enc_2])

    @torch.no_grad()
    def _embed(self, keys: list[tuple[str, str, int | None]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (hidden states of both encoders side by side, pooled embedding of the second).

        keys  (text for the first encoder, for the second, clip_skip), the last the same in all
        """
        texts_1, texts_2, (clip_skip, *_) = zip(*keys, strict=True)
        states = []
        for tokenizer, encoder, texts in (
            (self.tokenizer_1, self.text_enc_1, texts_1),
            (self.tokenizer_2, self.text_enc_2, texts_2),
        ):
            ids = token_ids(tokenizer, texts).to(self.device)
            out = encoder(ids, output_hidden_states=True)
            states.append(out.hidden_states[-2 - (clip_skip or 0)])
        return torch.cat(states, dim=-1), out.text_embeds

    def get_text_embed(
        self,
        null_prompt_1: str | Sequence[str],
        prompt_1: str | Sequence[str],
        null_prompt_2: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (null, cond, pooled_null, pooled_cond), one row for each given text.

        null_prompt_2, prompt_2  for the second encoder; by default the same texts
        clip_skip                layers to skip from the one before the last
        """

        def embed(
            first: str | Sequence[str], second: str | Sequence[str] | None
        ) -> tuple[torch.Tensor, ...]:
            texts = listed(first), listed(first if second is None else second)
            counts = [len(own) for own in texts]
            if 1 not in counts and len(set(counts)) > 1:
                raise ValueError(
                    f"{counts[0]} texts for the first encoder and {counts[1]} for the second; pass "
                    "as many of each, or one"
                )
            pairs = zip(*(own * (max(counts) // len(own)) for own in texts), strict=True)
            return self._texts([(*pair, clip_skip) for pair in pairs])

        null, pooled_null = embed(null_prompt_1, null_prompt_2)
        cond, pooled_cond = embed(prompt_1, prompt_2)
        return null, cond, pooled_null, pooled_cond

    def time_ids(self, original_size: Size, crops: Size, target_size: Size) -> torch.Tensor:
        """Return SDXL's size conditioning (1, 6); sizes are (height, width) in pixels."""
        ids = [*original_size, *crops, *target_size]
        width = self.unet.config.addition_time_embed_dim
        needed = self.unet.add_embedding.linear_1.in_features
        given = len(ids) * width + self.text_enc_2.config.projection_dim
        if given != needed:
            raise ValueError(
                f"the UNet expects {needed} added numbers and six time ids give {given}; "
                "only SDXL base models are sampled here, not refiners"
            )
        return torch.tensor([ids], dtype=self.dtype, device=self.device)

    def conditioned(self, prompts: Sequence[str], null_prompt: str = "") -> Model:
        uc, c, added = self.conditions([null_prompt, list(prompts)])
        return self.given(uc, c, added_cond_kwargs=added)

    def predict_noise(
        self,
        zt: torch.Tensor,
        t: torch.Tensor,
        uc: torch.Tensor | None,
        c: torch.Tensor | None,
        added_cond_kwargs: dict[str, torch.Tensor],
    ) -> Pair:
        """Return (ε_uncond, ε_cond) for latents (B, 4, h, w) at one timestep, in one network call.

        uc, c              embeddings with B rows or one row for all; None evaluates the other
                           alone and returns it twice
        added_cond_kwargs  {"text_embeds": (R, d), "time_ids": (R, 6)}: first the unconditional
                           rows, then as many conditional ones; a single row serves all
        """

        def rows(values: torch.Tensor) -> torch.Tensor:
            null, cond = values.chunk(2) if len(values) > 1 else (values, values)
            wanted = [half for half, e in ((null, uc), (cond, c)) if e is not None]
            return torch.cat([half.expand(len(zt), -1) for half in wanted])

        added = {name: rows(values) for name, values in added_cond_kwargs.items()}
        return self._predict(zt, t, uc, c, added)

    def kdiffusion_zt_to_denoised(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        uc: torch.Tensor,
        c: torch.Tensor,
        cfg_guidance: float,
        t: torch.Tensor,
        add_cond_kwargs: dict[str, torch.Tensor],
    ) -> Pair:
        """Return (guided, unconditional) clean estimates of a VE state at noise level σ."""
        noise = self.predict_noise(self.calculate_input(x, sigma), t, uc, c, add_cond_kwargs)
        return self._denoised(x, sigma, noise, cfg_guidance)

    def reverse_process(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} only loads a model; take a solver: get_solver"
        )

    def conditions(
        self,
        prompt1: Sequence[str | Sequence[str]],
        prompt2: Sequence[str | Sequence[str]] | None = None,
        original_size: Size | None = None,
        crops_coords_top_left: Size = (0, 0),
        target_size: Size | None = None,
        negative_original_size: Size | None = None,
        negative_crops_coords_top_left: Size = (0, 0),
        negative_target_size: Size | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Return (null, cond, added_cond_kwargs) for `predict_noise`; arguments as `sample` has.

        Both rows keep their own pooled embedding at every guidance, 0 and 1 included.
        """
        target_size = target_size or self._own_size
        null_2, prompt_2 = prompt2 if prompt2 is not None else (None, None)
        null, cond, pooled_null, pooled_cond = self.get_text_embed(
            prompt1[0], prompt1[1], null_2, prompt_2, clip_skip
        )
        ids = self.time_ids(original_size or target_size, crops_coords_top_left, target_size)
        null_ids = ids
        if negative_original_size is not None and negative_target_size is not None:
            null_ids = self.time_ids(
                negative_original_size, negative_crops_coords_top_left, negative_target_size
            )
        count = max(len(null), len(cond))
        if {len(null), len(cond)} - {1, count}:
            raise ValueError(
                f"{len(null)} null prompts and {len(cond)} prompts; pass as many of each, or one"
            )
        added = {
            "text_embeds": torch.cat([e.expand(count, -1) for e in (pooled_null, pooled_cond)]),
            "time_ids": torch.cat([e.expand(count, -1) for e in (null_ids, ids)]),
        }
        return null, cond, added

    @property
    def _own_size(self) -> Size:
        """The (height, width) in pixels that the model was trained for."""
        _, height, width = self.latent_shape
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    @torch.no_grad()
    def sample(
        self,
        prompt1: Sequence[str | Sequence[str]] = ("", ""),
        prompt2: Sequence[str | Sequence[str]] | None = None,
        cfg_guidance: float = 5.0,
        original_size: Size | None = None,
        crops_coords_top_left: Size = (0, 0),
        target_size: Size | None = None,
        negative_original_size: Size | None = None,
        negative_crops_coords_top_left: Size = (0, 0),
        negative_target_size: Size | None = None,
        clip_skip: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return images (N, 3, H, W) in [0, 1] on the CPU.

        prompt1, prompt2  [null prompt, prompt] for the two text encoders, each text a string or a
                          list with one per image; the second defaults to the first
        cfg_guidance      ω for CFG samplers; λ_cfg for CFG++ ones, above 2 read as ω
        target_size       (height, width) of the images in pixels; default: the model's own
        original_size, crops_coords_top_left
                          what the pictures are said to have been before crop and resize
        negative_*        the same for the unconditional row; with both sizes given it has its own
        kwargs            callback_fn, seeds (one or a list) and whatever the solver takes
        """
        for name, prompt in (("prompt1", prompt1), ("prompt2", prompt2 or prompt1)):
            texts_of(prompt, "null prompt", "prompt", argument=name)
        sizes = {
            "original_size": original_size,
            "crops_coords_top_left": crops_coords_top_left,
            "target_size": target_size,
            "negative_original_size": negative_original_size,
            "negative_crops_coords_top_left": negative_crops_coords_top_left,
            "negative_target_size": negative_target_size,
        }
        for name, size in sizes.items():
            _check_size(name, size)
        shape = self._own_size if target_size is None else target_size
        if any(n < 1 or n % self.vae_scale_factor for n in shape):
            raise ValueError(
                f"target_size is {target_size}; height and width must be multiples of "
                f"{self.vae_scale_factor} pixels"
            )
        null, cond, added = self.conditions(
            prompt1,
            prompt2,
            original_size,
            crops_coords_top_left,
            shape,
            negative_original_size,
            negative_crops_coords_top_left,
            negative_target_size,
            clip_skip,
        )
        zt = self.reverse_process(null, cond, cfg_guidance, added, shape=shape, **kwargs)
        return (self.decode(zt) / 2 + 0.5).clamp(0, 1).cpu()


def _check_size(name: str, size: Size | None) -> None:
    """Raise ValueError for what is neither None nor two whole numbers of pixels."""
    fits = isinstance(size, Sequence) and len(size) == 2
    if size is not None and not (fits and all(isinstance(n, Integral) for n in size)):
        raise ValueError(
            f"{name} is {size!r}; it must be (height, width), two whole numbers of pixels"
        )


def other_vae(vae_key: str | None, model_key: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return {"vae": …} where the pipeline's own is not to be used."""
    if vae_key is None and dtype == torch.float16 and not Path(places(model_key)[0]).is_dir():
        vae_key = FP16_VAE
    return {"vae": load_vae(vae_key, dtype)} if vae_key else {}
