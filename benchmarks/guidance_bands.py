"""At which noise levels guidance pays: ω raised in one band of σ at a time, the rest held.

    python -m benchmarks.guidance_bands --models standin-sd15,standin-sdxl --compile \\
        --out docs/results/guidance_bands.md
    python -m benchmarks.guidance_bands --limit 200 --seeds 100          # a quick look

For every model: what `exp2m_cfg++` scores with a constant ω, `--base`, and what CLIP and FID change
by where ω is `--raised` inside one band alone; the same noise throughout, so differences are paired
(95 % intervals, bootstrap over prompts). Development prompts only: it is what the shape "late" of
`samplers.guidance` was chosen by, on Karras's grid, which was the default's then.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.approximate_scores import Measured, Scores
from eval import models
from eval.commands import Parser, natural, one_line_errors
from eval.images import to_uint8, write_atomic
from eval.progress import Progress
from eval.prompts import noise_seed, parse_seeds, read_prompts
from eval.statistics import difference
from eval.tables import markdown
from samplers import compile_plan

ROOT = Path(__file__).resolve().parents[1]
EDGES = (0.0, 0.3, 1.0, 2.2, 5.0, math.inf)  # of the bands of σ
MEASURES = {
    "clip": ("CLIP", 1, 2),
    "fid": ("FID", 1, 3),
    "all_right": ("captions right, %", 100, 1),
}
PANELS = (  # colours of Okabe and Ito
    ("clip", "CLIP gained", "#0072B2"),
    ("fid", "FID paid", "#D55E00"),
)
Rate = Callable[[float], float]
Band = tuple[float, float]


def raised_in(band: Band, base: float, raised: float) -> Rate:
    """Return ω(σ): `raised` for σ in (low, high], else `base`."""
    low, high = band
    return lambda sigma: raised if low < sigma <= high else base


def changes(
    measure: Callable[[Rate], Measured], base: float, raised: float
) -> tuple[Measured, dict[Band, dict[str, dict]]]:
    """Return what a constant `base` scores, and per band the change of every measure by raising."""
    plain = measure(lambda sigma: base)
    found = {}
    for band in pairwise(EDGES):
        higher = measure(raised_in(band, base, raised))
        found[band] = {
            name: difference(
                higher.points[name] - plain.points[name],
                higher.draws[name] - plain.draws[name],
                plain.prompts,
            )
            for name in plain.points
        }
    return plain, found


def measuring(sd: models.Sampler, scores: Scores, seeds: Sequence[int], batch: int, nfe: int):
    """Return rate ω(σ) → scores of all prompts and seeds, drawn by `exp2m_cfg++` with it."""
    rows = [(i, p, s) for i, p in enumerate(scores.prompts) for s in seeds]

    def measure(rate: Rate) -> Measured:
        plan = compile_plan(
            "exp2m_cfg++", sd.schedule, nfe, omega=rate, cap=math.inf, grid="karras"
        )
        pixels = []
        with Progress(len(rows), "drawing") as progress:
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                noise = [noise_seed(prompt, seed) for _, prompt, seed in part]
                _, images = sd.generate(plan, [prompt for _, prompt, _ in part], noise)
                pixels.append(to_uint8(images))
                progress.advance(len(part))
        return scores.measure(np.concatenate(pixels), [i for i, _, _ in rows])

    return measure


def named(band: Band) -> str:
    low, high = band
    return f"σ > {low:g}" if math.isinf(high) else f"{low:g} < σ ≤ {high:g}"


def table(plain: Measured, found: dict[Band, dict[str, dict]]) -> str:
    known = {name: entry for name, entry in MEASURES.items() if name in plain.points}
    rows = [["nowhere", *(f"{k * plain.points[n]:.{d}f}" for n, (_, k, d) in known.items())]]
    for band, measures in found.items():
        cells = []
        for name, (_, factor, digits) in known.items():
            values = (measures[name]["difference"], *measures[name]["interval"])
            middle, low, high = (f"{factor * value:+.{digits}f}" for value in values)
            cells.append(f"{middle} [{low}, {high}]")
        rows.append([named(band), *cells])
    return markdown(["ω raised where", *(title for title, _, _ in known.values())], rows)


def figure(found: dict[str, dict[Band, dict[str, dict]]]) -> Figure:
    """Draw the changes of CLIP, and of FID where there is one, by band; one column per model."""
    measured = [next(iter(bands.values())) for bands in found.values()]
    drawn = [panel for panel in PANELS if any(panel[0] in entries for entries in measured)]
    size = (3.7 * len(found), 2.2 * len(drawn))
    out = Figure(figsize=size, layout="constrained")
    axes = out.subplots(len(drawn), len(found), sharex=True, sharey="row", squeeze=False)
    names = [named(band) for band in pairwise(EDGES)][::-1]  # noise falls from left to right
    for column, (model, bands) in zip(axes.T, found.items(), strict=True):
        for ax, (name, _, colour) in zip(column, drawn, strict=True):
            if any(name not in measures for measures in bands.values()):
                ax.set_visible(False)
                continue
            entries = [measures[name] for measures in bands.values()][::-1]
            middle = [entry["difference"] for entry in entries]
            reach = [
                [abs(m - entry["interval"][end]) for m, entry in zip(middle, entries, strict=True)]
                for end in (0, 1)
            ]
            ax.bar(names, middle, color=colour, width=0.6)
            ax.errorbar(names, middle, reach, fmt="none", ecolor="#333333", capsize=3, lw=1)
            ax.axhline(0, color="#999999", lw=0.8)
            ax.tick_params(axis="x", rotation=30)
        column[0].set_title(model)
    for ax, (_, label, _) in zip(axes[:, 0], drawn, strict=True):
        ax.set_ylabel(label)
    return out


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="standin-sd15", help="comma-separated, as eval run's")
    parser.add_argument("--base", type=float, default=1.75, help="ω everywhere (default 1.75)")
    parser.add_argument("--raised", type=float, default=4.0, help="ω in the band (default 4)")
    parser.add_argument("--prompts", type=Path, default=ROOT / "prompts" / "scenes_dev1000.txt")
    parser.add_argument("--limit", type=int, help="only the first so many prompts")
    parser.add_argument("--seeds", default="100,101", help="(default 100,101)")
    parser.add_argument("--nfe", type=natural, default=20)
    parser.add_argument("--batch", type=natural, default=100)
    parser.add_argument("--dtype", default=None, help="as eval run's")
    parser.add_argument("--compile", action="store_true", help="compile the UNet first")
    parser.add_argument("--reference", help="what FID compares with; renders for stand-ins")
    parser.add_argument("--out", type=Path, help="also write this page, and its figure beside it")
    args = parser.parse_args()
    prompts, seeds = read_prompts(args.prompts, args.limit), parse_seeds(args.seeds)
    sources = {name: models.find(name) for name in args.models.split(",")}  # all, before the work
    sections, found = [], {}
    for name, source in sources.items():
        device = models.choose_device(None)
        sd = models.load(source, args.nfe, device, models.choose_dtype(args.dtype, source, device))
        if args.compile:
            sd.compile_unet()
        scores = Scores(prompts, source.standin, args.reference, models.image_size(sd))
        measure = measuring(sd, scores, seeds, args.batch, args.nfe)
        plain, found[name] = changes(measure, args.base, args.raised)
        note = " (a stand-in: not SD numbers)" if source.standin else ""
        sections.append(f"## {name}{note}\n\n{table(plain, found[name])}")
    page = "\n\n".join(sections) + "\n"
    print(page)
    if args.out:
        picture = args.out.with_suffix(".png")
        head = (
            "# Where guidance pays\n\n"
            f"    python -m benchmarks.guidance_bands {shlex.join(sys.argv[1:])}\n\n"
            f"`exp2m_cfg++[grid=karras]` at NFE {args.nfe}, ω = {args.base:g}, "
            f"raised to {args.raised:g} in one band of noise levels at a\ntime; "
            "changes with 95 % intervals over prompts. "
            f"{len(prompts)} development prompts × seeds {args.seeds}.\n\n"
            f"![Changes by band]({picture.name})\n\n"
        )
        write_atomic(args.out, (head + page).encode())
        figure(found).savefig(picture, dpi=140, metadata={"Software": None})


if __name__ == "__main__":
    main()
