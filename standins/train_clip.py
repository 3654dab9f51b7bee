"""Train the stand-ins' scorer: a small open_clip model of pictures and captions of scenes.

    python -m standins.train_clip --vae build/vae/vae    # about 20 min on one CPU core

Writes an open_clip folder, so `open_clip.create_model_and_transforms("local-dir:standins/clip")`
and `open_clip.get_tokenizer(...)` work. Besides the other captions of its batch, each picture must
reject captions that are wrong in one attribute. It also sees the pairs of colour and shape held out
from the generators: it is their judge. A function of seed and steps; resumes when started again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from eval.commands import one_line_errors
from standins import scenes, tokenizer
from standins.card import write_card
from standins.degrade import degrade, load_vae
from standins.negatives import hard_negatives
from standins.train_checker import loss_of, targets
from standins.training import Checkpoint, Ema, Log, set_rate, to_tensor, warmup_cosine

NEGATIVES = 3  # per picture
# A small ResNet: 2.5 times fewer steps to the same retrieval than a 4-layer ViT with 8 px patches.
VISION = {"width": 14, "layers": [1, 1, 1, 1], "head_width": 56, "image_size": scenes.SIZE}
GRID_CHANNELS = 112  # of its second stage, 8 × 8 cells as in the checker
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


def model_config(vocabulary: int) -> dict:
    """Return open_clip's configuration: 1.5 M weights, a ResNet and a 2-layer text transformer."""
    text = {"context_length": tokenizer.LENGTH, "vocab_size": vocabulary, "width": 128}
    # open_clip reads the tokenizer files beside the weights when this name is set, whatever it is;
    # without it, it would take its own 49,408 words.
    text |= {"heads": 4, "layers": 2, "hf_tokenizer_name": "standins/clip"}
    return {"embed_dim": 96, "vision_cfg": dict(VISION), "text_cfg": text}


def new_scorer(vocabulary: int) -> open_clip.CLIP:
    return open_clip.CLIP(**model_config(vocabulary))


def to_ids(words: CLIPTokenizer, texts: list[str], device: str) -> torch.Tensor:
    """Tokenize into (B, 32) ids, padded with the end token."""
    ids = words(texts, padding="max_length", max_length=tokenizer.LENGTH, truncation=True)
    return torch.tensor(ids["input_ids"], device=device)


def captioned_batch(
    split: str, first: int, size: int, negatives: int, device: str
) -> tuple[torch.Tensor, list[str], list[tuple[str, str]], list[scenes.Scene]]:
    """Draw (images, captions, hard negatives in (kind, text), scenes), `negatives` per image."""
    drawn = [scenes.sample(split, first + k, held_out=None) for k in range(size)]
    wrong = []
    for k, (_, _, text) in enumerate(drawn):
        rng = np.random.default_rng((scenes.SPLITS[split], first + k, 1))
        wrong += hard_negatives(text, rng, negatives)
    images = to_tensor([image for _, image, _ in drawn], device)
    return images, [text for *_, text in drawn], wrong, [scene for scene, *_ in drawn]


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, wrong: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Mean of InfoNCE picture to caption (hard negatives included), caption to picture, and
    picture to its own caption and negatives alone. Features normalised, (B, E) and (kB, E)."""
    target = torch.arange(len(images), device=images.device)
    logits = scale * images @ torch.cat([texts, wrong]).T
    own = scale * torch.einsum("be,bke->bk", images, wrong.view(len(images), -1, wrong.shape[-1]))
    right = logits[target, target][:, None]
    hard = F.cross_entropy(torch.cat([right, own], 1), torch.zeros_like(target))
    across = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(texts)].T, target)
    return (across + hard) / 3


@torch.no_grad()
def retrieval(
    model: open_clip.CLIP, words: CLIPTokenizer, batch: tuple, device: str, group: int = 100
) -> tuple[float, float]:
    """Return the share of images that pick their caption out of `group`, and out of it and its hard
    negatives; `batch` as from `captioned_batch`."""
    images, texts, wrong, _ = batch
    model.eval()
    picture = torch.cat([model.encode_image(part, normalize=True) for part in images.split(128)])
    ids = to_ids(words, [*texts, *(text for _, text in wrong)], device)
    captions = torch.cat([model.encode_text(part, normalize=True) for part in ids.split(512)])
    model.train()
    right, hard = captions[: len(texts)], captions[len(texts) :].view(len(texts), -1, 96)
    own = (picture * right).sum(-1, keepdim=True)
    beaten = (own > torch.einsum("be,bke->bk", picture, hard)).all(1)
    first = [
        (p @ c.T).argmax(1) == torch.arange(len(p), device=device)
        for p, c in zip(picture.split(group), right.split(group), strict=True)
    ]
    return float(torch.cat(first).float().mean()), float(beaten.float().mean())


def finish(model: open_clip.CLIP, weights: dict, vocabulary: int, out: Path) -> None:
    """Write the folder that open_clip's "local-dir:" reads; weights in float16."""
    out.mkdir(parents=True, exist_ok=True)
    known = model.state_dict()
    save_file(
        {k: weights[k].half().cpu().contiguous() for k in known},
        out / "open_clip_model.safetensors",
    )
    config = {"model_cfg": model_config(vocabulary), "preprocess_cfg": PREPROCESS}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("standins/clip"))
    parser.add_argument("--work", type=Path, default=Path("build/clip"), help="checkpoint folder")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--vae", type=Path, help="send half of each batch through this VAE")
    parser.add_argument("--vae-from", type=int, default=900, help="first step that uses the VAE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    vae = load_vae(args.vae, args.device) if args.vae else None
    tokenizer.build(args.out)
    words = tokenizer.load(args.out)
    torch.manual_seed(args.seed)
    model = new_scorer(len(words)).to(args.device).train()
    ema = Ema(model, decay=0.998)
    # Says what stands in each cell: told where to look, the picture tower learns outlines early.
    reader = nn.Conv2d(GRID_CHANNELS, len(scenes.SHAPES) + len(scenes.COLOURS) + 3, 1)
    reader.to(args.device)
    cells: dict[str, torch.Tensor] = {}
    model.visual.layer2.register_forward_hook(lambda _, __, out: cells.update(features=out))
    trained = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.98))
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint, step = Checkpoint(args.work / "checkpoint.pt", args), 0
    state = checkpoint.load()
    if state is not None:
        model.load_state_dict(state["model"])
        reader.load_state_dict(state["reader"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, step = state["ema"], state["step"]
    log = Log(
        args.out / "loss.csv",
        ("loss", "r1_of_100_val", "hard_val"),
        every=200,
        start=step,
        last=args.steps,
    )
    held_out = captioned_batch("val", 0, 300, 5, args.device)
    saved = time.monotonic()

    while step < args.steps:
        set_rate(optimizer, args.rate * warmup_cosine(step, args.steps))
        images, texts, wrong, drawn = captioned_batch(
            "train", step * args.batch, args.batch, NEGATIVES, args.device
        )
        generator = torch.Generator().manual_seed(args.seed * 10**9 + step)
        images = degrade(images, generator, vae if step >= args.vae_from else None)
        ids = to_ids(words, [*texts, *(text for _, text in wrong)], args.device)
        captions = model.encode_text(ids, normalize=True)
        loss = contrastive_loss(
            model.encode_image(images, normalize=True),
            captions[: args.batch],
            captions[args.batch :],
            model.logit_scale.exp().clamp(max=100),
        )
        (loss + 0.5 * loss_of(reader(cells["features"]), targets(drawn))).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(model, step)
        log(step, lambda x=loss: (x.item(), *retrieval(model, words, held_out, args.device)))
        if time.monotonic() - saved > 120 or step == args.steps:
            state = {"model": model.state_dict(), "reader": reader.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "ema": ema.shadow, "step": step}
            checkpoint.save(state)
            saved = time.monotonic()
    finish(model, ema.shadow, len(words), args.out)
    write_card(
        args.out,
        "open_clip scorer of the stand-ins' scenes: a judge, not a contestant; it "
        "has seen every pair of colour and shape",
        model,
        args,
    )


if __name__ == "__main__":
    main()
