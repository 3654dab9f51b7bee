"""The stand-ins' networks: each family in the classes, options and file format of the real one.

`FAMILIES[name](tokens)` is one module that holds UNet and text encoders, so that one optimizer and
one average cover both; it predicts from token ids and, for SDXL, time ids, and turns itself into
a stock diffusers pipeline.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _unet(channels: tuple[int, int] = (64, 96), **options) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        norm_num_groups=16,
        **options,
    )


def _text_config(tokens: CLIPTokenizer, width: int, layers: int, **options) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokens.model_max_length,
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        **options,
    )


class Sd15(nn.Module):
    """Stable Diffusion 1.5: ε-prediction, CLIP's last hidden state, convolutional projections."""

    title = "sd15 stand-in: Stable Diffusion 1.5's classes, 64x64 scenes"
    scheduler = _scheduler("epsilon")
    views = False

    def __init__(self, tokens: CLIPTokenizer):
        super().__init__()
        # what diffusers calls attention_head_dim is the number of heads
        self.unet = _unet(attention_head_dim=4, cross_attention_dim=128)
        self.text = CLIPTextModel(_text_config(tokens, 128, 2))

    def forward(
        self, noisy: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, time_ids: torch.Tensor
    ) -> torch.Tensor:
        return self.unet(noisy, t, encoder_hidden_states=self.text(ids)[0]).sample

    def pipeline(self, vae: AutoencoderKL, tokens: CLIPTokenizer) -> DiffusionPipeline:
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=self.text.eval(),
            tokenizer=tokens,
            unet=self.unet.eval(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class Sd20(Sd15):
    """Stable Diffusion 2.0 (768-v): v-prediction, linear projections, heads of equal width."""

    title = "sd20 stand-in: Stable Diffusion 2.0's classes, v-prediction, 64x64 scenes"
    scheduler = _scheduler("v_prediction")

    def __init__(self, tokens: CLIPTokenizer):
        super().__init__(tokens)
        self.unet = _unet(
            attention_head_dim=(4, 6), cross_attention_dim=128, use_linear_projection=True
        )
        self.text = CLIPTextModel(_text_config(tokens, 128, 2, hidden_act="gelu"))


class Sdxl(nn.Module):
    """SDXL base: two text encoders read before their last layer, pooled embedding, time ids."""

    title = "sdxl stand-in: Stable Diffusion XL's classes, 64x64 scenes"
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    views = True

    def __init__(self, tokens: CLIPTokenizer):
        super().__init__()
        self.text = CLIPTextModel(_text_config(tokens, 64, 2))
        self.text_2 = CLIPTextModelWithProjection(_text_config(tokens, 96, 3, hidden_act="gelu"))
        self.unet = _unet(
            (64, 80),
            attention_head_dim=(4, 5),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=64 + 96,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=96 + 6 * 32,
        )

    def forward(
        self, noisy: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, time_ids: torch.Tensor
    ) -> torch.Tensor:
        first = self.text(ids, output_hidden_states=True)
        second = self.text_2(ids, output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        added = {"text_embeds": second.text_embeds, "time_ids": time_ids}
        return self.unet(noisy, t, encoder_hidden_states=hidden, added_cond_kwargs=added).sample

    def pipeline(self, vae: AutoencoderKL, tokens: CLIPTokenizer) -> DiffusionPipeline:
        return StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=self.text.eval(),
            text_encoder_2=self.text_2.eval(),
            tokenizer=tokens,
            tokenizer_2=tokens,
            unet=self.unet.eval(),
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=False,  # trained with the embedding of "", not zeros
            add_watermarker=False,
        )


FAMILIES: dict[str, type[nn.Module]] = {"sd15": Sd15, "sd20": Sd20, "sdxl": Sdxl}
