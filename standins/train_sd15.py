"""Train the sd15 stand-in: text-to-image latent diffusion in Stable Diffusion 1.5's classes.

    python -m standins.train_sd15 --vae build/vae/vae --out build/sd15 --steps 10500 --workers 2
    python -m standins.train_sd15 --vae build/vae/vae --out build/sd15 --export standins/sd15

ε-prediction on SD's scaled-linear schedule, 8×8×4 latents, a small CLIP text encoder trained along
with the UNet, caption dropout for classifier-free guidance. Captions that name a held-out
composition never occur. Renders are fresh: a pool of new scenes is encoded, used a few times with
new noise, and replaced. `--workers N` runs N data-parallel processes of one thread each (two of
them beat two threads on a CPU); on a GPU leave it at 1. The first command resumes when repeated.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from standins import tokenizer as words
from standins.card import write_card
from standins.training import Ema, Log, fresh_batch, save_atomic, set_rate, warmup_cosine

SCHEDULER = DDIMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=4,  # in diffusers this is the number of heads
        cross_attention_dim=128,
        norm_num_groups=16,
    )


def new_text_encoder(tokens: words.CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokens.model_max_length,
            projection_dim=128,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


class Model(nn.Module):
    """UNet and text encoder as one module, so that one optimizer and one EMA hold both."""

    def __init__(self, tokens: words.CLIPTokenizer):
        super().__init__()
        self.unet, self.text = new_unet(), new_text_encoder(tokens)

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, t, encoder_hidden_states=self.text(ids)[0]).sample


def token_ids(tokens: words.CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    return tokens(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@dataclass
class Pool:
    """Freshly rendered scenes, encoded: what a few hundred training steps draw from."""

    vae: AutoencoderKL
    tokens: words.CLIPTokenizer
    device: str
    size: int = 2048

    @torch.no_grad()
    def fill(self, first: int, split: str = "train") -> Pool:
        parts, captions = [], []
        for start in range(first, first + self.size, 64):
            images, texts = fresh_batch(split, start, 64, self.device)
            parts.append(self.vae.encode(images).latent_dist.parameters)
            captions += texts
        self.mean, logvar = torch.cat(parts).chunk(2, dim=1)
        self.std = torch.exp(0.5 * logvar.clamp(-30, 20))
        self.ids = token_ids(self.tokens, captions).to(self.device)
        return self

    def draw(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn_like(self.mean[rows])
        latents = (self.mean[rows] + self.std[rows] * noise) * self.vae.config.scaling_factor
        return latents, self.ids[rows]


@torch.no_grad()
def health(model: Model, pool: Pool) -> tuple[float, float]:
    """Return the ε-MSE on held-out scenes with the right captions and with shuffled ones."""
    state = torch.get_rng_state()
    torch.manual_seed(1234)
    latents, ids = pool.draw(torch.arange(256))
    noise, t = torch.randn_like(latents), torch.linspace(0, 999, 256).long().to(latents.device)
    noisy = SCHEDULER.add_noise(latents, noise, t)
    errors = [
        F.mse_loss(model(noisy, t, captions), noise).item() for captions in (ids, ids.roll(1, 0))
    ]
    torch.set_rng_state(state)
    return errors[0], errors[1]


def train(rank: int, args: argparse.Namespace) -> None:
    """Run one data-parallel worker; worker 0 also logs, averages and saves."""
    if args.workers > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=args.workers)
    tokens = words.load(args.out / "tokenizer")
    vae = AutoencoderKL.from_pretrained(args.vae, dtype=torch.float32).to(args.device)
    vae.requires_grad_(False)
    torch.manual_seed(args.seed)
    model = Model(tokens).to(args.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema, step, checkpoint = Ema(model, args.ema), 0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, step = state["ema"], state["step"]
    empty = token_ids(tokens, [""]).to(args.device)
    pool = Pool(vae, tokens, args.device)
    per_pool = args.reuse * pool.size // args.batch
    if rank == 0:
        columns = ("mse", "mse_val", "mse_val_shuffled")
        log = Log(args.out / "loss.csv", columns, every=500, start=step)
        held_out = Pool(vae, tokens, args.device, size=256).fill(0, "val")
    saved, filled = time.monotonic(), None

    while step < args.steps:
        if filled != step // per_pool:
            filled = step // per_pool
            pool.fill((filled * args.workers + rank) * pool.size)
        torch.manual_seed(hash((args.seed, step, rank)))
        set_rate(optimizer, args.rate * warmup_cosine(step, args.steps))
        latents, ids = pool.draw(torch.randint(pool.size, (args.batch,)))
        ids = torch.where(torch.rand(args.batch, 1, device=ids.device) < args.drop, empty, ids)
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (args.batch,), device=latents.device)
        loss = F.mse_loss(model(SCHEDULER.add_noise(latents, noise, t), t, ids), noise)
        loss.backward()
        if args.workers > 1:
            flat = nn.utils.parameters_to_vector([p.grad for p in parameters])
            dist.all_reduce(flat)
            nn.utils.vector_to_parameters(flat / args.workers, [p.grad for p in parameters])
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if rank == 0:
            ema.update(model, step)
            log(step, lambda mse=loss: (mse.item(), *health(model, held_out)))
            if time.monotonic() - saved > 150 or step == args.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                save_atomic({**state, "ema": ema.shadow, "step": step}, checkpoint)
                saved = time.monotonic()
    if args.workers > 1:
        dist.destroy_process_group()


def export(args: argparse.Namespace, folder: Path) -> None:
    """Save the averaged weights as a pipeline (fp16 safetensors) that stock diffusers loads."""
    tokens = words.load(args.out / "tokenizer")
    model = Model(tokens)
    model.load_state_dict(torch.load(args.out / "checkpoint.pt", map_location="cpu")["ema"])
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(args.vae),
        text_encoder=model.text.eval(),
        tokenizer=tokens,
        unet=model.unet.eval(),
        scheduler=SCHEDULER,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder)
    words.build(folder / "tokenizer")  # also the vocab.json and merges.txt that older readers need
    shutil.copy(args.out / "loss.csv", folder / "loss.csv")
    shutil.copy(args.vae.parent / "loss.csv", folder / "loss_vae.csv")
    write_card(folder, "sd15 stand-in: Stable Diffusion 1.5's classes, 64x64 scenes", model, args)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vae", type=Path, default=Path("build/vae/vae"))
    parser.add_argument("--out", type=Path, default=Path("build/sd15"), help="checkpoint and log")
    parser.add_argument("--export", type=Path, help="write the pipeline here and stop")
    parser.add_argument("--steps", type=int, default=10_500)
    parser.add_argument("--batch", type=int, default=32, help="per worker")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--reuse", type=int, default=4, help="noise draws per render")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--drop", type=float, default=0.12, help="share of captions replaced by ''")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.export:
        export(args, args.export)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    words.build(args.out / "tokenizer")
    if args.workers == 1:
        train(0, args)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(random.randint(20_000, 40_000)))
        torch.multiprocessing.spawn(train, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
