"""What each part of the default recipe does: one change at a time, on closed-form mixtures.

    python -m benchmarks.ablations --out docs/results/ablations-mixture.md
    python -m benchmarks.ablations --nfe 10 --seeds 0-1 --images 500      # a quick look

Every arm is compared with `exp2m_cfg++` at a constant ω on Karras's grid along its front over ω
(`benchmarks.mixture`), so that the solver is seen without the default's shape of ω(σ) and grid,
which are among the changes: the number is the mean over alignment levels of ln(FD of the arm / FD
of the base) at equal alignment, in per cent, averaged over problems drawn from different seeds, ±
two standard errors over the problems. Positive: the base is better. Development only: no network,
no held-out data.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.mixture import Bed, at_levels, front
from eval.arms import parse_arms
from eval.commands import Parser, natural, naturals, one_line_errors, read_by
from eval.images import write_atomic
from eval.progress import Progress
from eval.prompts import parse_seeds
from eval.tables import markdown
from samplers import available

OURS = "exp2m_cfg++"
BASE = f"{OURS}[grid=karras,shape=constant]"


def changed(*options: str) -> tuple[str, ...]:
    """Return the base with each of these options."""
    return tuple(f"{BASE[:-1]},{option}]" for option in options)


GROUPS: dict[str, Sequence[str]] = {
    "the other samplers": (
        "ddim", "ddim_cfg++", "dpm2m", "dpm2m_cfg++", "dpm2s", "dpm2s_cfg++", "dpm3m_sde",
        "dpm3m_sde_cfg++", "euler", "unipc", "dpm3m", "exp3m", "res_2m_cfg++",
        "dpm++_2m_cfg++", "dpm++_2m_cfg++[grid=karras]",
    ),
    "noise η and the share of the extrapolation": changed(
        "eta=0", "eta=0.5", "eta=1.5", "history=0", "history=0.25", "history=0.75", "history=1",
        "window=0.1..10", "window=0.5..5", "window=0..5", "window=0..2.2",
    ),
    "order and corrector, without noise": changed(
        "eta=0,order=1", "eta=0,order=3", "eta=0,corrector=true", "order=3",
    ),
    "the corrector, with noise": changed(
        "corrector=true,history=0", "corrector=true", "corrector=true,history=1",
    ),
    "shape of ω(σ)": (
        *(f"{OURS}[grid=karras,shape={shape}]" for shape in ("late", "bell", "rising")),
        *changed("interval=0.3..5.5", "interval=0.3..100", "interval=0..5.5"),
    ),
    "grid": tuple(
        f"{OURS}[grid={grid},shape=constant]"
        for grid in ("leading", "trailing", "uniform", "ays_sd15", "ays_sd15_tail", "blend")
    ),
}  # fmt: skip


def log_ratios(arm: str, nfe: int, beds: Sequence[Bed], images: int, base: dict) -> np.ndarray:
    """Return the mean of ln(FD / base's FD) over the levels both reach, per problem (NaN)."""
    known = {recipe.name: recipe.guidance for recipe in available()}
    (parsed,) = parse_arms(arm, (1.0,), known)
    found = []
    for bed in beds:
        mine = at_levels(front(bed, parsed, nfe, images))
        if arm == BASE:
            base[bed.seed] = mine
        pairs = [(a, b) for a, b in zip(mine, base[bed.seed], strict=True) if a and b]
        found.append(np.mean([np.log(a / b) for a, b in pairs]) if pairs else np.nan)
    return np.array(found)


def cell(values: np.ndarray) -> str:
    """Say mean ± two standard errors, in per cent; a dash where no problem could compare."""
    values = 100 * values[~np.isnan(values)]
    if len(values) < 2:
        return "–"
    half = 2 * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.0f} ± {half:.0f}"


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nfe", type=naturals, default="10,20", help="evaluations, comma-separated"
    )
    parser.add_argument("--seeds", type=read_by(parse_seeds), default="0-4", help="of the problems")
    parser.add_argument("--images", type=natural, default=1500, help="per strength")
    parser.add_argument("--out", type=Path, help="markdown file; otherwise standard output alone")
    args = parser.parse_args()
    nfes, beds = args.nfe, [Bed(seed=seed) for seed in args.seeds]
    arms = [arm for group in GROUPS.values() for arm in group]
    base: dict[int, dict] = {nfe: {} for nfe in nfes}
    found: dict[tuple[str, int], str] = {}
    with Progress((len(arms) + 1) * len(nfes), "ablations", unit="arms") as progress:
        for nfe in nfes:
            for arm in (BASE, *arms):
                found[arm, nfe] = cell(log_ratios(arm, nfe, beds, args.images, base[nfe]))
                progress.advance(1, arm)
    head = ["change", *(f"NFE {nfe}" for nfe in nfes)]
    parts = [
        "# One change at a time, on closed-form mixtures",
        f"    python -m benchmarks.ablations {shlex.join(sys.argv[1:])}".rstrip(),
        f"Fréchet distance at equal alignment against `{BASE}`, in per cent (log ratio), mean "
        f"± two standard errors over {len(beds)} problems of `benchmarks.mixture`, "
        f"{args.images:,} samples per strength. Positive: that base is better. No network, no "
        "Stable Diffusion.",
    ]
    for title, group in GROUPS.items():
        rows = [[f"`{arm}`", *(found[arm, nfe] for nfe in nfes)] for arm in group]
        parts += [f"## {title[0].upper()}{title[1:]}", markdown(head, rows)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.out:
        write_atomic(args.out, text.encode())


if __name__ == "__main__":
    main()
