"""The same start noises at 10 to 80 evaluations, with noise of every step's own and along one path.

    python -m benchmarks.path_pictures       # writes docs/method/path.png

Pictures of a stand-in: what they show is how far they stay the same, not how good they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from eval import models
from eval.commands import Parser, one_line_errors
from samplers import compile_plan

OUT = Path(__file__).resolve().parents[1] / "docs" / "method" / "path.png"
PROMPT = "a large red ring to the left of a blue star"
TITLES = {"steps": "every step its own noise, the default", "path": 'noise="path"'}
NFES, SEEDS = (10, 20, 40, 80), tuple(range(1, 7))


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="standin-sd15", help="as eval run's")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    model = models.load(models.find(args.model), NFES[0], "cpu", "float32")
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    for part, (noise, title) in zip(figure.subfigures(1, 2), TITLES.items(), strict=True):
        part.suptitle(title)
        rows = part.subplots(len(NFES), len(SEEDS), squeeze=False)
        for row, nfe in zip(rows, NFES, strict=True):
            plan = compile_plan("exp2m_cfg++", model.schedule, nfe, omega=2, noise=noise)
            pictures = model.generate(plan, [PROMPT] * len(SEEDS), SEEDS)[1]
            row[0].set_ylabel(f"NFE {nfe}")
            for axes, picture in zip(row, pictures, strict=True):
                axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
    figure.savefig(args.out, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
