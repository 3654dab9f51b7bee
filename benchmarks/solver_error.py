"""How far each solver and grid is from the equation that it integrates, on a stand-in.

    python -m benchmarks.solver_error
    python -m benchmarks.solver_error --equation sde --model standin-sdxl --images 40
    python -m benchmarks.solver_error --nfe 10 --omegas 3 --images 8 --json

The same start is integrated with 160 evaluations (`exp2m_cfg++` on the uniform grid, the limit) and
with few; printed is the RMS distance of the final latents, by the median over images for the ODE
and by the mean for the SDE, where both follow one Brownian path (`samplers.path`). Development
prompts, seeds from 1,000 up. It tells solvers and grids apart without any metric of image quality:
a smaller error is a more faithful solution, not a better picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from eval import models
from eval.arms import parse_scales
from eval.commands import Parser, natural, one_line_errors, read_by
from eval.prompts import read_prompts
from eval.tables import markdown
from samplers import compile_plan

PROMPTS = Path(__file__).resolve().parents[1] / "prompts" / "scenes_dev40.txt"
LIMIT = 160  # evaluations


@dataclass(frozen=True)
class Equation:
    """What is integrated (options of `exp2m_cfg++`), and by what: (sampler, options)."""

    options: Mapping[str, object]
    grids: tuple[str, ...]
    solvers: Mapping[str, tuple[str, Mapping[str, object]]]
    over_images: Callable[[torch.Tensor], torch.Tensor]


OURS = "exp2m_cfg++"
EQUATIONS = {
    # CFG++'s own weights: the same equation at every number of steps
    "ode": Equation(
        {"eta": 0.0, "shape": "bell", "cap": math.inf},
        ("leading", "trailing", "linspace", "karras", "uniform", "blend", "ays_sd15"),
        {
            "order 1": (OURS, {"order": 1}),
            "order 2": (OURS, {"order": 2}),
            "order 3": (OURS, {"order": 3}),
            "order 2 + corrector": (OURS, {"order": 2, "corrector": True}),
        },
        torch.median,
    ),
    "sde": Equation(
        {"eta": 1.0, "shape": "constant", "cap": math.inf, "noise": "path"},
        ("karras", "uniform", "trailing", "ays_sd15", "ays_sdxl"),
        {
            "no history": (OURS, {"history": 0.0}),
            "half, the default": (OURS, {"history": 0.5}),
            "all": (OURS, {"history": 1.0}),
            "half + corrector": (OURS, {"history": 0.5, "corrector": True}),
            "`dpm3m_sde`": ("dpm3m_sde", {}),
        },
        torch.mean,
    ),
}


def errors(
    model: models.Sampler, equation: Equation, prompts: list[str], nfe: int, omega: float
) -> dict[str, dict[str, float]]:
    """Return the RMS latent error by grid and solver."""
    seeds = list(range(1000, 1000 + len(prompts)))

    def solve(steps: int, grid: str, name: str = OURS, **options: object) -> torch.Tensor:
        options = {**equation.options, **options}
        if name != OURS:  # it knows its own equation
            options = {"noise": options["noise"]}
        plan = compile_plan(name, model.schedule, steps, omega=omega, grid=grid, **options)
        return model.generate(plan, prompts, seeds)[0]

    limit = solve(LIMIT, "uniform")
    table: dict[str, dict[str, float]] = {}
    for grid in equation.grids:
        print(f"omega {omega:g}, {grid}", file=sys.stderr)
        table[grid] = {}
        for label, (name, options) in equation.solvers.items():
            apart = (solve(nfe, grid, name, **options) - limit).square().mean((1, 2, 3)).sqrt()
            table[grid][label] = equation.over_images(apart).item()
    return table


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="standin-sd15", help="as eval run's")
    parser.add_argument("--equation", choices=EQUATIONS, default="ode")
    parser.add_argument("--nfe", type=natural, default=20)
    parser.add_argument(
        "--omegas", type=read_by(parse_scales), default="2,5", help="strengths in CFG units"
    )
    parser.add_argument("--images", type=natural, default=24)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    source, equation = models.find(args.model), EQUATIONS[args.equation]
    prompts = read_prompts(PROMPTS)[: args.images]
    model = models.load(source, args.nfe, "cpu", "float32")
    found = {f"{w:g}": errors(model, equation, prompts, args.nfe, w) for w in args.omegas}
    if args.json:
        print(json.dumps(found, indent=1))
        return
    name = source.label.removeprefix("standin-")
    stamp = f"Stand-in {name}, not SD." if source.standin else f"{name}."
    print(f"{stamp} RMS latent error at NFE {args.nfe}, {len(prompts)} images.\n")
    rows = [
        [omega, f"`{grid}`", *(f"{value:.4f}" for value in row.values())]
        for omega, table in found.items()
        for grid, row in table.items()
    ]
    print(markdown(["ω", "grid", *equation.solvers], rows))


if __name__ == "__main__":
    main()
