"""How far each solver and grid is from the equation that it integrates, on a stand-in.

    python benchmarks/solver_error.py
    python benchmarks/solver_error.py --nfe 10 --omegas 3 --images 8 --json

The same noise is integrated with 160 evaluations (`exp2m_cfg++` on the uniform grid, the limit) and
with few; printed is the median over images of the RMS distance of the final latents. Development
prompts, seeds from 1,000 up. It tells solvers and grids apart without any metric of image quality:
a smaller error is a more faithful solution, not a better picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eval import models  # noqa: E402
from eval.arms import parse_scales  # noqa: E402
from eval.commands import (  # noqa: E402
    Parser,
    natural,
    one_line_errors,
    read_by,
)
from eval.prompts import read_prompts  # noqa: E402
from latent_diffusion import StableDiffusion  # noqa: E402
from pipelines.loading import pipeline_kind  # noqa: E402
from samplers import compile_plan  # noqa: E402

GRIDS = ("leading", "trailing", "linspace", "karras", "uniform", "blend", "ays_sd15")
SOLVERS = {
    "order 1": {"order": 1},
    "order 2": {"order": 2},
    "order 3": {"order": 3},
    "order 2 + corrector": {"order": 2, "corrector": True},
}
LIMIT = 160  # evaluations
# the deterministic form, and CFG++'s own weights: the same equation at every number of steps
EQUATION = {"eta": 0.0, "shape": "bell", "cap": math.inf}


def errors(sd: StableDiffusion, prompts: list[str], nfe: int, omega: float) -> dict[str, dict]:
    """Return the median RMS latent error by grid and solver."""
    seeds = list(range(1000, 1000 + len(prompts)))

    def solve(steps: int, grid: str, **options: object):
        options |= EQUATION
        plan = compile_plan("exp2m_cfg++", sd.schedule, steps, omega=omega, grid=grid, **options)
        return sd.generate(plan, prompts, seeds)[0]

    limit = solve(LIMIT, "uniform")
    table: dict[str, dict] = {}
    for grid in GRIDS:
        print(f"omega {omega:g}, {grid}", file=sys.stderr)
        table[grid] = {
            name: (solve(nfe, grid, **options) - limit)
            .square()
            .mean((1, 2, 3))
            .sqrt()
            .median()
            .item()
            for name, options in SOLVERS.items()
        }
    return table


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="standin-sd15", help="as eval run's; no SDXL")
    parser.add_argument("--nfe", type=natural, default=20)
    parser.add_argument(
        "--omegas", type=read_by(parse_scales), default="2,5", help="strengths in CFG units"
    )
    parser.add_argument("--images", type=natural, default=24)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    source = models.find(args.model)
    if pipeline_kind(source.key) != "sd":
        raise ValueError(f"--model {args.model} is an SDXL; give a Stable Diffusion 1 or 2")
    sd = StableDiffusion({"num_sampling": args.nfe}, model_key=source.key, device="cpu")
    prompts = read_prompts(ROOT / "prompts" / "scenes_dev40.txt")[: args.images]
    found = {f"{w:g}": errors(sd, prompts, args.nfe, w) for w in args.omegas}
    if args.json:
        print(json.dumps(found, indent=1))
        return
    name = source.label.removeprefix("standin-")
    stamp = f"Stand-in {name}, not SD." if source.standin else f"{name}."
    print(f"{stamp} RMS latent error at NFE {args.nfe}, {len(prompts)} images.\n")
    print(f"| ω | grid | {' | '.join(SOLVERS)} |\n|---|---|{'---|' * len(SOLVERS)}")
    for omega, table in found.items():
        for grid, row in table.items():
            print(f"| {omega} | {grid} | {' | '.join(f'{v:.4f}' for v in row.values())} |")


if __name__ == "__main__":
    main()
