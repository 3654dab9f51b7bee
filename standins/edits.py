"""Change one colour word and see what changes in the picture: inversion and edit on the stand-in.

python -m standins.edits
python -m standins.edits --split val --methods coupled_edit@4,coupled_edit_cfg++@1 --no-trips

Each case is a rendered picture of one object, its caption, and the caption with another colour. The
picture is inverted under the first and sampled under the second, or edited by the coupled rule of
`pipelines.coupled_edit`. The checker then reads colour, shape and place; outside the object, pixels
are compared with the given picture. Strengths were chosen on development captions (--split val).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from eval.commands import Parser, natural, one_line_errors
from latent_diffusion import CoupledEditDDIM, EditWordSwapDDIM, StableDiffusion, get_solver
from samplers import sample
from standins import scenes
from standins.checker import Checker
from standins.measures import to_uint8

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "inversion" / "edit.png"
NEAR = 4.0  # pixels; an object whose centre moved by no more has kept its place
METHODS = (
    "ddim_edit@2,ddim_edit@3,ddim_edit@5,ddim_edit_cfg++@0.3,ddim_edit_cfg++@0.5,ddim_edit_cfg++@0.7,"
    "coupled_edit@4,coupled_edit@5,coupled_edit_cfg++@0.8,coupled_edit_cfg++@1"
)
SHOWN = (
    "ddim_inversion_cfg++@0.5",
    "ddim_edit_cfg++@0.5",
    "coupled_edit@4",
    "coupled_edit_cfg++@1",
)
MARGIN = 3.0  # pixels around the object that count as its own


@dataclass(frozen=True)
class Case:
    """A picture uint8 (64, 64, 3) of one `thing`, its caption, and the edit that is asked for."""

    pixels: np.ndarray
    thing: scenes.Thing
    source: str
    target: str
    colour: str


@dataclass(frozen=True)
class Score:
    """Shares of cases where the colour is as asked, the shape and the place are as before, and
    all three; mean absolute error outside the object, in levels of 255."""

    colour: float
    shape: float
    place: float
    all: float
    background: float


def swapped(caption: str, old: str, new: str) -> str:
    """Replace a colour word, with the article before it."""
    article = "an" if new[0] in "aeiou" else "a"
    for before in ("an", "a"):
        if f"{before} {old}" in caption:
            return caption.replace(f"{before} {old}", f"{article} {new}", 1)
    return caption.replace(old, new, 1)


def cases(split: str, count: int) -> list[Case]:
    """Return the first cases of a split: one plain object, and a pair that training has seen."""
    out: list[Case] = []
    index = 0
    while len(out) < count:
        scene, pixels, caption = scenes.sample(split, index, count=1)
        (thing,) = scene.things
        rng = np.random.default_rng((split == "test", index))
        colours = [c for c in scenes.COLOURS if (thing.shape, c) not in scenes.HELD_OUT]
        colour = str(rng.choice([c for c in colours if c != thing.colour]))
        named = [w for w in scenes.WORDS.get(thing.colour, (thing.colour,)) if w in caption]
        if not thing.striped:
            target = swapped(caption, named[0], colour)
            out.append(Case(pixels, thing, caption, target, colour))
        index += 1
    return out


def stack(chosen: list[Case]) -> torch.Tensor:
    """Return the pictures as (N, 3, 64, 64) in [−1, 1]."""
    pixels = np.stack([case.pixels for case in chosen])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@cache
def load(method: str, nfe: int) -> StableDiffusion:
    """Return a solver on the sd15 stand-in, the same one for the same arguments."""
    folder = str(ROOT / "standins" / "sd15")
    return get_solver(method, solver_config={"num_sampling": nfe}, model_key=folder)


def run(method: str, chosen: list[Case], nfe: int, guidance: float) -> torch.Tensor:
    """Edit or reconstruct the cases, in one batch; return uint8 (N, 3, 64, 64)."""
    prompt = ["", [case.source for case in chosen], [case.target for case in chosen]]
    seeds = list(range(len(chosen)))  # for the methods that draw noise
    images = load(method, nfe).sample(stack(chosen), guidance, prompt, seeds=seeds)
    return to_uint8(images * 2 - 1)


def outside(thing: scenes.Thing) -> np.ndarray:
    """Return where (64, 64) the background is."""
    y, x = np.mgrid[0 : scenes.SIZE, 0 : scenes.SIZE]
    radius = scenes.RADII[thing.size]
    return scenes.DISTANCE[thing.shape](x - thing.x, y - thing.y, radius) > MARGIN


def judge(images: torch.Tensor, chosen: list[Case], checker: Checker) -> Score:
    """Read edited pictures uint8 (N, 3, 64, 64) and compare them with what was asked."""
    rows = []
    for image, case, seen in zip(images, chosen, checker.read(images), strict=True):
        alone = len(seen) == 1
        shape, colour, x, y = seen[0] if alone else ("", "", np.inf, np.inf)
        near = np.hypot(x - case.thing.x, y - case.thing.y) <= NEAR
        kept = [colour == case.colour, shape == case.thing.shape, near]
        difference = np.abs(image.permute(1, 2, 0).numpy().astype(float) - case.pixels).mean(2)
        rows.append([*kept, all(kept), difference[outside(case.thing)].mean()])
    return Score(*(float(v) for v in np.mean(np.array(rows, float), axis=0)))


def table(chosen: list[Case], nfe: int, methods: list[str]) -> Iterator[str]:
    """Yield the lines of a markdown table, one per METHOD@STRENGTH."""
    checker = Checker.load()
    yield "| method | strength | colour as asked | shape kept | place kept | all | background MAE |"
    yield "|---|---|---|---|---|---|---|"
    for method, value in map(parsed, methods):
        s = judge(run(method, chosen, nfe, value), chosen, checker)
        shares = " | ".join(f"{100 * v:.0f} %" for v in (s.colour, s.shape, s.place, s.all))
        yield f"| `{method}` | {value:g} | {shares} | {s.background:.1f} |"


def parsed(method: str) -> tuple[str, float]:
    """Split METHOD@STRENGTH."""
    name, _, value = method.partition("@")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(
            f"--methods has {method!r}; write METHOD@STRENGTH, such as ddim_edit@2"
        ) from None


def check(methods: Sequence[str], nfe: int) -> None:
    """Raise ValueError for a method that is unknown or takes no picture."""
    for name, _ in map(parsed, methods):
        if not isinstance(load(name, nfe), EditWordSwapDDIM | CoupledEditDDIM):
            raise ValueError(f"--methods: {name} edits no picture; take one such as ddim_edit@2")


def round_trips(chosen: list[Case], steps: list[int], omegas: list[float]) -> Iterator[str]:
    """Yield the lines of a markdown table: how exactly sampling undoes inversion, with medians."""
    yield "| method | NFE | ω | latent error | PSNR |"
    yield "|---|---|---|---|---|"
    texts = [case.source for case in chosen]
    for method in ("ddim_inversion", "ddim_inversion_cfg++"):
        for nfe in steps:
            solver = load(method, nfe)
            z0, (uc, c) = solver.encode(stack(chosen)), solver.get_text_embed("", texts)
            for omega in omegas:
                noise = solver.inversion(z0, uc, c, omega)
                plan = solver.plan(solver.sampler, omega)
                back = sample(solver.conditioned(texts), noise, plan)
                error = ((back - z0).flatten(1).norm(dim=1) / z0.flatten(1).norm(dim=1)).median()
                squares = (solver.decode(back) - solver.decode(z0)).square().flatten(1).mean(1)
                psnr = (10 * torch.log10(4 / squares)).median()
                yield f"| `{method}` | {nfe} | {omega:g} | {error:.3f} | {psnr:.1f} dB |"


def picture(chosen: list[Case], nfe: int, methods: Sequence[str], path: Path) -> None:
    """Save rows of pictures, one per METHOD@STRENGTH, under the given pictures."""
    rows = {"given": to_uint8(stack(chosen))}
    for name, strength in map(parsed, methods):
        rows[f"{name}\nat {strength:g}"] = run(name, chosen, nfe, strength)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(rows), len(chosen), figsize=(1.3 * len(chosen) + 1.6, 1.35 * len(rows) + 0.6)
    )
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy(), vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axis, case in zip(axes[0], chosen, strict=True):
        axis.set_title(f"{case.thing.colour} → {case.colour}", fontsize=8)
    title = f"Stand-in sd15, not Stable Diffusion: one colour word swapped, NFE {nfe}"
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


@one_line_errors()
def main() -> None:
    parser = Parser(
        prog="python -m standins.edits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--split", default="test", choices=list(scenes.SPLITS))
    parser.add_argument("--count", type=natural, default=40, help="cases of the edit table")
    parser.add_argument("--nfe", type=natural, default=20, help="evaluations each way")
    parser.add_argument("--methods", default=METHODS, help="METHOD@STRENGTH, separated by commas")
    parser.add_argument("--no-trips", action="store_true", help="leave round trips and picture out")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to save it")
    args = parser.parse_args()
    methods = args.methods.split(",")
    check(methods, args.nfe)
    chosen = cases(args.split, args.count)
    print(f"Edits of {args.count} pictures, NFE {args.nfe} each way:\n")
    for line in table(chosen, args.nfe, methods):
        print(line, flush=True)
    if args.no_trips:
        return
    print("\nRound trips, medians over 12 pictures:\n")
    for line in round_trips(chosen[:12], [20, 50], [3.0, 5.0, 7.5]):
        print(line, flush=True)
    picture(chosen[:8], args.nfe, SHOWN, args.picture)


if __name__ == "__main__":
    main()
