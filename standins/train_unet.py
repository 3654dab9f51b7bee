"""Train a stand-in: text-to-image latent diffusion in the classes of SD 1.5, SD 2.0 or SDXL.

    python -m standins.train_unet sd15 --steps 10500 --workers 2
    python -m standins.train_unet sd20 --start build/sd15 --steps 3800 --rate 8e-4 --workers 2
    python -m standins.train_unet sdxl --steps 9000 --workers 2
    python -m standins.train_unet sdxl --export standins/sdxl

SD's scaled-linear schedule, 8×8×4 latents, small CLIP text encoders trained along with the UNet,
caption dropout for classifier-free guidance. Captions that name a held-out composition never
occur. Renders are fresh: a pool of new scenes is encoded, used a few times with new noise, and
replaced; SDXL's are also cropped and enlarged, and it is told so. `--start` takes over the weights
of another family's run where they fit, as SD 2.0's v-model was trained from its ε-model. With
`--wrong` a share of the captions belongs to another scene, as on the web: such a model hedges,
and wants stronger guidance.
`--workers N` runs N data-parallel processes of one thread each (two of them beat two threads on a
CPU); on a GPU leave it at 1. A command resumes when repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

from eval.commands import one_line_errors
from standins import scenes
from standins import tokenizer as words
from standins.card import write_card
from standins.families import BETAS, FAMILIES
from standins.training import Checkpoint, Ema, Log, set_rate, to_tensor, warmup_cosine
from standins.views import WHOLE, enlarged, random_view

SCHEDULE = DDIMScheduler(**BETAS)  # for its tables alone: every family has this one


def share(text: str) -> float:
    """Read a share, 0 to 1, for `type=`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a share from 0 to 1")
    return value


def token_ids(tokens: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    return tokens(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@dataclass
class Pool:
    """Freshly rendered scenes, encoded: what a few hundred training steps draw from."""

    vae: AutoencoderKL
    tokens: CLIPTokenizer
    device: str
    views: bool
    size: int = 2048

    @torch.no_grad()
    def fill(self, first: int, split: str = "train") -> Pool:
        rng = np.random.default_rng((scenes.SPLITS[split], first, self.size))
        views = [random_view(rng) if self.views else WHOLE for _ in range(self.size)]
        parts, captions = [], []
        for start in range(0, self.size, 64):
            part = views[start : start + 64]
            drawn = [scenes.sample(split, first + start + k, v.crop) for k, v in enumerate(part)]
            images = to_tensor([image for _, image, _ in drawn], self.device)
            if self.views:
                rows = zip(images.split(1), part, strict=True)
                images = torch.cat([enlarged(image, view.original) for image, view in rows])
            parts.append(self.vae.encode(images).latent_dist.parameters)
            captions += [text for *_, text in drawn]
        self.mean, logvar = torch.cat(parts).chunk(2, dim=1)
        self.std = torch.exp(0.5 * logvar.clamp(-30, 20))
        self.ids = token_ids(self.tokens, captions).to(self.device)
        self.time_ids = torch.tensor([view.time_ids for view in views]).float().to(self.device)
        return self

    def draw(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents, token ids and time ids of some scenes."""
        noise = torch.randn_like(self.mean[rows])
        latents = (self.mean[rows] + self.std[rows] * noise) * self.vae.config.scaling_factor
        return latents, self.ids[rows], self.time_ids[rows]


def replaced(ids: torch.Tensor, others: torch.Tensor, share: float) -> torch.Tensor:
    """Return token ids (B, L) with a random `share` of the captions replaced by `others`."""
    return torch.where(torch.rand(len(ids), 1, device=ids.device) < share, others, ids)


def error(
    model: nn.Module,
    latents: torch.Tensor,
    t: torch.Tensor,
    ids: torch.Tensor,
    time_ids: torch.Tensor,
) -> torch.Tensor:
    """Return the mean squared error of what the family predicts, ε or v, with fresh noise."""
    noise = torch.randn_like(latents)
    v_prediction = model.scheduler.config.prediction_type == "v_prediction"
    target = SCHEDULE.get_velocity(latents, noise, t) if v_prediction else noise
    return F.mse_loss(model(SCHEDULE.add_noise(latents, noise, t), t, ids, time_ids), target)


@torch.no_grad()
def health(model: nn.Module, pool: Pool) -> tuple[float, float]:
    """Return the error on held-out scenes with the right captions and with shuffled ones."""
    state = torch.get_rng_state()
    errors = []
    for shift in (0, 1):
        torch.manual_seed(1234)
        latents, ids, time_ids = pool.draw(torch.arange(pool.size))
        t = torch.linspace(0, 999, pool.size).long().to(latents.device)
        errors.append(error(model, latents, t, ids.roll(shift, 0), time_ids).item())
    torch.set_rng_state(state)
    return errors[0], errors[1]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the averaged weights of another run, or those of an exported stand-in."""
    if (folder / "checkpoint.pt").is_file():
        return torch.load(folder / "checkpoint.pt", map_location="cpu")["ema"]
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    parts = {"unet": "unet", "text": "text_encoder", "text_2": "text_encoder_2"}
    return {
        f"{part}.{key}": weight
        for part, name in parts.items()
        if name in pipe.components
        for key, weight in pipe.components[name].state_dict().items()
    }


def take_over(model: nn.Module, start: dict[str, torch.Tensor]) -> int:
    """Copy the weights that fit, a 1×1 convolution into a linear layer too; return how many."""
    taken = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            found = start.get(name)
            if found is not None and found.squeeze().shape == weight.squeeze().shape:
                weight.copy_(found.reshape(weight.shape))
                taken += 1
    return taken


def train(rank: int, args: argparse.Namespace) -> None:
    """Run one data-parallel worker; worker 0 also logs, averages and saves."""
    if args.workers > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=args.workers)
    tokens = words.load(args.out / "tokenizer")
    vae = AutoencoderKL.from_pretrained(args.vae, dtype=torch.float32).to(args.device)
    vae.requires_grad_(False)
    torch.manual_seed(args.seed)
    model = FAMILIES[args.family](tokens).to(args.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema, step, checkpoint = Ema(model, args.ema), 0, Checkpoint(args.out / "checkpoint.pt", args)
    state = checkpoint.load()
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, step = state["ema"], state["step"]
    elif args.start:
        taken = take_over(model, weights_of(args.start))
        ema = Ema(model, args.ema)
        if rank == 0:
            print(f"took over {taken} of {len(parameters)} tensors from {args.start}", flush=True)
    empty = token_ids(tokens, [""]).to(args.device)
    pool = Pool(vae, tokens, args.device, model.views)
    per_pool = args.reuse * pool.size // args.batch
    if rank == 0:
        columns = ("mse", "mse_val", "mse_val_shuffled")
        log = Log(args.out / "loss.csv", columns, every=500, start=step)
        held_out = Pool(vae, tokens, args.device, model.views, size=256).fill(0, "val")
    saved, filled = time.monotonic(), None

    parent = os.getppid()
    while step < args.steps:
        if args.workers > 1 and os.getppid() != parent:
            raise SystemExit("the main process is gone; a worker alone would spoil the checkpoint")
        if filled != step // per_pool:
            filled = step // per_pool
            pool.fill((filled * args.workers + rank) * pool.size)
        torch.manual_seed(hash((args.seed, step, rank)))
        set_rate(optimizer, args.rate * warmup_cosine(step, args.steps))
        latents, ids, time_ids = pool.draw(torch.randint(pool.size, (args.batch,)))
        ids = replaced(ids, ids.roll(1, 0), args.wrong)
        ids = replaced(ids, empty, args.drop)
        t = torch.randint(0, 1000, (args.batch,), device=latents.device)
        loss = error(model, latents, t, ids, time_ids)
        loss.backward()
        if args.workers > 1:
            # SDXL reads its first text encoder before the last layer, which gets no gradient
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = nn.utils.parameters_to_vector(gradients)
            dist.all_reduce(flat)
            nn.utils.vector_to_parameters(flat / args.workers, gradients)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if rank == 0:
            ema.update(model, step)
            log(step, lambda mse=loss: (mse.item(), *health(model, held_out)))
            if time.monotonic() - saved > 150 or step == args.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {"ema": ema.shadow, "step": step}
                checkpoint.save(state)
                saved = time.monotonic()
    if args.workers > 1:
        dist.destroy_process_group()


def export(args: argparse.Namespace, folder: Path) -> None:
    """Save the averaged weights as a pipeline (fp16 safetensors) that stock diffusers loads."""
    tokens = words.load(args.out / "tokenizer")
    model = FAMILIES[args.family](tokens)
    model.load_state_dict(torch.load(args.out / "checkpoint.pt", map_location="cpu")["ema"])
    pipeline = model.pipeline(AutoencoderKL.from_pretrained(args.vae), tokens)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    for place in folder.glob("text_encoder*/model.safetensors"):
        use_old_names(place)
    for place in folder.glob("tokenizer*"):
        words.build(place)  # also the vocab.json and merges.txt that older readers need
    shutil.copy(args.out / "loss.csv", folder / "loss.csv")
    shutil.copy(args.vae.parent / "loss.csv", folder / "loss_vae.csv")
    trained = json.loads((args.out / "settings.json").read_text())
    wrong = trained.get("wrong", 0)
    what = model.title + (f", {100 * wrong:g} % of its captions wrong" if wrong else "")
    write_card(folder, what, model, argparse.Namespace(**trained))


def use_old_names(weights: Path) -> None:
    """Name a text encoder's weights as transformers before 5 does, and as later ones read, too.

    Version 4 finds none of the names that version 5 writes for a CLIPTextModel, and then draws with
    random weights.
    """
    tensors = load_file(weights)
    heads = ("text_model.", "text_projection.")
    named = {k if k.startswith(heads) else f"text_model.{k}": v for k, v in tensors.items()}
    save_file(named, weights, metadata={"format": "pt"})


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--vae", type=Path, default=Path("build/vae/vae"))
    parser.add_argument("--out", type=Path, help="checkpoint and log (default build/FAMILY)")
    text = "folder with another run's checkpoint, or of an exported stand-in"
    parser.add_argument("--start", type=Path, help=text)
    parser.add_argument("--export", type=Path, help="write the pipeline here and stop")
    parser.add_argument("--steps", type=int, default=10_500)
    parser.add_argument("--batch", type=int, default=32, help="per worker")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--reuse", type=int, default=4, help="noise draws per render")
    parser.add_argument("--rate", type=float, default=1e-3)
    text = "share of captions replaced by ''"
    parser.add_argument("--drop", type=share, default=0.12, help=text)
    text = "share of captions replaced by another scene's"
    parser.add_argument("--wrong", type=share, default=0.0, help=text)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out = args.out or Path("build") / args.family
    if args.export:
        export(args, args.export)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    Checkpoint(
        args.out / "checkpoint.pt", args
    ).load()  # or a refusal, before settings.json changes
    words.build(args.out / "tokenizer")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    (args.out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    if args.workers == 1:
        train(0, args)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(random.randint(20_000, 40_000)))
        torch.multiprocessing.spawn(train, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
