"""The subcommand `python -m eval search`. Heavy imports stand in the action."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from pathlib import Path

from eval.arms import parse_scales
from eval.commands import add_command, add_place

EXAMPLES = """
  # a preset for the stand-in at 10 evaluations; started again, it resumes
  python -m eval search --model standin-sd15 --nfe 10 --budget 6000 --out runs/search-nfe10
  # with more images per candidate, which tell smaller gains from luck
  python -m eval search --nfe 10 --budget 24000 --screen 256 --compile --out runs/search-nfe10
  # fit the coefficients to a fine grid's trajectories instead: 256 pairs
  python -m eval search --nfe 8 --mode teacher --budget 256 --out runs/teacher-nfe8
  # Stable Diffusion from a folder, towards a fine grid's solution: no reference images needed
  python -m eval search --model /path/to/sd15 --prompts my_prompts.txt --nfe 8 \\
      --objective teacher --budget 3000 --out runs/search-sd15"""


def add_search(commands: argparse._SubParsersAction) -> None:
    """Add the parser."""
    text = "search a preset: one sampler's per-step decisions, for one model and NFE"
    command = add_command(commands, "search", text, EXAMPLES, _search)
    command.add_argument("--model", default="standin-sd15", help="as for run")
    command.add_argument("--nfe", type=int, required=True, help="evaluations per image")
    command.add_argument("--out", type=Path, required=True, help="folder, new or to be resumed")
    command.add_argument("--mode", default="evolve", help="evolve (default) or teacher")
    command.add_argument(
        "--objective",
        default="fd",
        help="what evolves: fd, a Fréchet distance with a CLIP floor (default), or teacher, the "
        "distance to a fine grid's latents",
    )
    command.add_argument(
        "--budget", type=int, default=6000, help="images to draw, or pairs to fit (default 6000)"
    )
    command.add_argument("--omegas", default="1.5,3", help="strengths, CFG units (default 1.5,3)")
    command.add_argument(
        "--prompts", type=Path, help="development prompts (default: fresh captions, stand-ins only)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the search (default 0)")
    command.add_argument(
        "--screen",
        type=int,
        default=64,
        help="images per candidate while evolving; half of the budget goes there (default 64)",
    )
    command.add_argument(
        "--clip-weight", type=float, default=1.0, help="loss per CLIP point below the floor"
    )
    command.add_argument(
        "--clip-floor",
        type=float,
        default=0.0,
        help="least CLIP score; the recipe's own, on the same images, where that is higher",
    )
    command.add_argument("--sampler", default="exp2m_cfg++", help="default exp2m_cfg++")
    command.add_argument("--scorer", help="CLIP model: a folder or an open_clip name")
    command.add_argument("--reference", help="reference statistics (.npz) or image folder")
    command.add_argument("--compile", action="store_true", help="compile the UNet, as for run")
    add_place(command)


def _search(args: argparse.Namespace) -> None:
    omegas = tuple(parse_scales(args.omegas))
    from eval.search.program import Request, search

    given = {field.name: getattr(args, field.name) for field in fields(Request)}
    found = search(Request(**given | {"omegas": omegas}))
    print(*found.lines, sep="\n")
    print(f"preset: {shlex.quote(str(found.file))}; copy it to presets/NAME.json to name it")
