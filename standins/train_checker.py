"""Train the checker on fresh renders and on the round trip of the stand-ins' VAE.

    python -m standins.train_checker --vae build/vae/vae      # about 10 min on one CPU core

All pairs of colour and shape occur, also those held out from the generators: the checker is their
judge. A function of seed and steps; resumes from its last checkpoint when started again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from eval.commands import one_line_errors
from standins import scenes
from standins.card import write_card
from standins.checker import CELL, FOLDER, Checker, Network, split_cells
from standins.degrade import degrade, load_vae, round_trip
from standins.measures import reading, to_uint8
from standins.training import Checkpoint, Ema, Log, set_rate, to_tensor, warmup_cosine

SPREAD = 0.7  # cells; a centre's target is exp(-d²/2s²), so its four nearest cells all fire
SHAPE_INDEX = {name: k for k, name in enumerate(scenes.SHAPES)}
COLOUR_INDEX = {name: k for k, name in enumerate(scenes.COLOURS)}


def targets(drawn: list[scenes.Scene]) -> tuple[torch.Tensor, ...]:
    """Return what each cell should say, on the 8 × 8 grid.

    near (B, 8, 8) in [0, 1], shape and colour (B, 8, 8) indices of the nearest object, offset
    (B, 2, 8, 8) from the cell's centre to that object's, in cells.
    """
    grid = scenes.SIZE // CELL
    row, column = torch.meshgrid(*[torch.arange(grid) + 0.5] * 2, indexing="ij")
    made = []
    for scene in drawn:
        x = torch.tensor([thing.x / CELL for thing in scene.things])[:, None, None]
        y = torch.tensor([thing.y / CELL for thing in scene.things])[:, None, None]
        squared = (x - column) ** 2 + (y - row) ** 2
        least, owner = squared.min(0)
        shape = torch.tensor([SHAPE_INDEX[thing.shape] for thing in scene.things])[owner]
        colour = torch.tensor([COLOUR_INDEX[thing.colour] for thing in scene.things])[owner]
        offset = torch.stack([x.flatten()[owner] - column, y.flatten()[owner] - row])
        made.append((torch.exp(-least / (2 * SPREAD**2)), shape, colour, offset))
    return tuple(torch.stack(part) for part in zip(*made, strict=True))


def loss_of(cells: torch.Tensor, wanted: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Centre cross-entropy over all cells; shape, colour and offset where a centre is near."""
    centre, shape, colour, offset = split_cells(cells)
    near, shape_index, colour_index, true_offset = (part.to(cells.device) for part in wanted)
    weight = near * (near > 0.3)

    def where_near(values: torch.Tensor) -> torch.Tensor:
        return (weight * values).sum() / weight.sum()

    return (
        10 * F.binary_cross_entropy_with_logits(centre, near)
        + where_near(F.cross_entropy(shape, shape_index, reduction="none"))
        + where_near(F.cross_entropy(colour, colour_index, reduction="none"))
        + where_near(F.smooth_l1_loss(offset, true_offset, reduction="none").sum(1))
    )


def drawn_batch(split: str, first: int, size: int, device: str) -> tuple:
    """Return (images in [-1, 1], scenes); every pair of colour and shape may occur."""
    made = [scenes.sample(split, first + k, held_out=None) for k in range(size)]
    return to_tensor([image for _, image, _ in made], device), [scene for scene, *_ in made]


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--work", type=Path, default=Path("build/checker"), help="checkpoints")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--vae", type=Path, help="send half of each batch through this VAE")
    parser.add_argument("--vae-from", type=int, default=0, help="first step that uses the VAE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    vae = load_vae(args.vae, args.device) if args.vae else None
    torch.manual_seed(args.seed)
    network = Network().to(args.device).train()
    ema = Ema(network, decay=0.995)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, betas=(0.9, 0.99))
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint, step = Checkpoint(args.work / "checkpoint.pt", args), 0
    state = checkpoint.load()
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, step = state["ema"], state["step"]
    images_val, scenes_val = drawn_batch("val", 0, 200, args.device)
    back_val = round_trip(vae, images_val, torch.tensor(0.0)) if vae else images_val

    def validate(loss: torch.Tensor) -> tuple[float, ...]:
        averaged = Network()
        averaged.load_state_dict(ema.shadow)
        clean, back = (
            reading(scenes_val, Checker(averaged).read(to_uint8(images)))
            for images in (images_val, back_val)
        )
        shares = clean["scenes"], back["shapes"], back["colours"]
        return loss.item(), *(share.value for share in shares)

    columns = ("loss", "all_val", "vae_shapes_val", "vae_colours_val")
    log = Log(args.out / "loss.csv", columns, every=250, start=step, last=args.steps)
    saved = time.monotonic()
    while step < args.steps:
        set_rate(optimizer, args.rate * warmup_cosine(step, args.steps))
        images, drawn = drawn_batch("train", step * args.batch, args.batch, args.device)
        generator = torch.Generator().manual_seed(args.seed * 10**9 + step)
        images = degrade(images, generator, vae if step >= args.vae_from else None)
        with torch.autocast(args.device, torch.bfloat16):  # twice as fast, on CPUs too
            cells = network(images)
        loss = loss_of(cells.float(), targets(drawn))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(network, step)
        log(step, lambda x=loss: validate(x))
        if time.monotonic() - saved > 120 or step == args.steps:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"ema": ema.shadow, "step": step}
            checkpoint.save(state)
            saved = time.monotonic()
    half = {k: v.half() if v.is_floating_point() else v for k, v in ema.shadow.items()}
    save_file({k: v.cpu().contiguous() for k, v in half.items()}, args.out / "checker.safetensors")
    write_card(
        args.out,
        "reader of the stand-ins' scenes: a judge, not a contestant; it has seen "
        "every pair of colour and shape",
        network,
        args,
    )


if __name__ == "__main__":
    main()
