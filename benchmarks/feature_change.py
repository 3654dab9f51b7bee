"""Measure how the UNet's features change over the steps, plot it, and choose key steps by it.

    python -m benchmarks.feature_change --model standin-sd15 --keys 10
    python -m benchmarks.feature_change --model sdxl --method ddim --nfe 50 --prompts my.txt

Writes feature_change_MODEL.png: mean squared change from step to step, and Frobenius norm, of every
unit of the encoder and the decoder (as in Faster Diffusion, arXiv:2312.09608, Fig. 3). Prints the
keys as an approximation, for `--approximate` of python -m eval run and generate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from eval import models
from eval.commands import Parser, one_line_errors, read_by
from eval.prompts import noise_seed, parse_seeds, read_prompts
from pipelines.feature_change import FeatureChange, choose_keys, feature_change
from samplers import compile_plan

ROOT = Path(__file__).resolve().parents[1]


def figure(change: FeatureChange, timesteps: Sequence[float], heading: str, file: Path) -> None:
    """Draw both measures over the timesteps, one line per unit, dark where it is outermost."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(1, 2, figsize=(10, 4))
    times = np.asarray(timesteps)
    for axis, values, label in (
        (axes[0], change.mse, "mean squared change since the step before"),
        (axes[1], change.norm, "Frobenius norm, per image and row"),
    ):
        for name, encoder, line in zip(change.names, change.encoder, values, strict=True):
            depth = int(name[1:] or len(change.names) // 2)
            shade = 0.95 - 0.6 * depth / (len(change.names) // 2)
            color = plt.get_cmap("Blues" if encoder else "Oranges")(shade)
            dashes = ":" if name == "M" else "-"
            axis.plot(times[-len(line) :], line, color=color, ls=dashes, lw=1.3, label=name)
        axis.set_yscale("log")
        axis.invert_xaxis()
        axis.set_xlabel("timestep")
        axis.set_ylabel(label)
    title = "E: encoder, M: middle, D: decoder"
    axes[0].legend(fontsize=7, ncol=3, loc="lower center", title=title, title_fontsize=7)
    canvas.suptitle(heading, fontsize=10)
    canvas.tight_layout()
    canvas.savefig(file, dpi=130, metadata={"Software": None})
    plt.close(canvas)


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as for python -m eval run")
    parser.add_argument("--method", default="dpm2m", help="default dpm2m")
    parser.add_argument("--omega", type=float, default=2.5, help="CFG units (default 2.5)")
    parser.add_argument("--nfe", type=int, default=20)
    parser.add_argument("--keys", type=int, default=10, help="how many to choose (default 10)")
    parser.add_argument(
        "--prompts", type=Path, default=ROOT / "prompts" / "scenes_dev40.txt", help="one per line"
    )
    parser.add_argument("--limit", type=int, default=8, help="only the first K (default 8)")
    parser.add_argument("--seeds", type=read_by(parse_seeds), default=[100], help="default 100")
    parser.add_argument("--device", help="default: cuda, else mps, else cpu")
    parser.add_argument("--dtype", help="float32, float16 or bfloat16 (default by device)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "speed")
    print(_run(parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    source = models.find(options.model)
    device = models.choose_device(options.device)
    dtype = models.choose_dtype(options.dtype, source, device)
    model = models.load(source, options.nfe, device, dtype)
    prompts = read_prompts(options.prompts, options.limit)
    jobs = [(p, noise_seed(p, s)) for p in prompts for s in options.seeds]
    plan = compile_plan(options.method, model.schedule, nfe=options.nfe, omega=options.omega)
    change = feature_change(model, plan, [p for p, _ in jobs], [s for _, s in jobs])
    keys = choose_keys(change.between, options.keys)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"feature_change_{source.label}.png"
    stamp = f"stand-in {source.label}: not SD numbers" if source.standin else source.label
    title = f"{stamp}, {options.method}, ω = {options.omega:g}, {options.nfe} evaluations"
    figure(change, [row.timestep for row in plan], title, file)
    encoder, decoder = (change.relative[side].mean() for side in (change.encoder, ~change.encoder))
    return (
        f"propagate[keys={'+'.join(map(str, keys))}]\n"
        f"mean squared change per step, relative to the features' mean square: encoder "
        f"{encoder:.4f}, decoder {decoder:.4f}; {file.name} written"
    )


if __name__ == "__main__":
    main()
