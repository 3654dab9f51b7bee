"""List the samplers, or show one as its table of coefficients.

python -m samplers
python -m samplers exp2m_cfg++ --nfe 8 --scale 0.6
python -m samplers dpm3m_sde --omega 5 --grid uniform --json
"""

from __future__ import annotations

import argparse
import signal
import sys

from samplers.compile import compile_plan
from samplers.grids import GRIDS
from samplers.registry import available
from samplers.schedule import NoiseSchedule


def table() -> str:
    """Return the markdown table of all registered samplers."""
    lines = [
        "| name | guidance | order | evaluations per step | noise | default grid | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in available():
        noise = "yes" if r.stochastic else "no"
        guidance = f"{r.guidance}, {(r.strength if r.kicks else r.shape).replace('_', ' ')}"
        lines.append(
            f"| `{r.name}` | {guidance} | {r.order} | "
            f"{r.evaluations_per_step} | {noise} | {r.grid} | {r.source} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m samplers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="a sampler; without it, list them")
    parser.add_argument("--nfe", type=int, default=20)
    parser.add_argument("--scale", type=float, help="omega for CFG, lambda for CFG++")
    parser.add_argument("--omega", type=float, help="the strength in CFG units instead")
    parser.add_argument("--grid", help=", ".join(GRIDS))
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    args = parser.parse_args()
    if args.name is None:
        print(table())
        return 0
    try:
        plan = compile_plan(
            args.name,
            NoiseSchedule.stable_diffusion(),
            args.nfe,
            args.scale,
            omega=args.omega,
            grid=args.grid,
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(plan.to_json() if args.json else plan)
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `| head` ends it without a word, as it does other programs
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
