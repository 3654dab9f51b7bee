"""Write the page and the figure of `benchmarks.end_to_end` from its JSON files."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

INTRO = """# Whole images per second

Written by `python -m benchmarks.end_to_end`; its `--help` says how time is taken. Same networks,
same Karras grid, second-order multistep, ω = 7.5, text encoder and VAE included.

- **stock**: diffusers' pipeline with `DPMSolverMultistepScheduler`, the same batch, eager.
- **one at a time**: a plain loop over single images that encodes the text for each.
- **ours**: `dpm2m` for the whole batch; **compiled**: after `compile_unet()`, which takes the time
  stated once per process (torch keeps what it built for the next).

Ratios are medians over interleaved pairs with their range in brackets; above 1, ours is faster.
Other work on the machine lengthens the milliseconds, of all ways alike. The stock pipeline rounds
timesteps to whole numbers; how far its pixels are from ours is stated below each table.
"""


def write_page(folder: Path) -> str:
    """Write end_to_end.md and end_to_end.png from end_to_end/*.json; return the page."""
    reports = [json.loads(p.read_text()) for p in sorted((folder / "end_to_end").glob("*.json"))]
    parts = [INTRO]
    if reports:
        _figure(reports, folder / "end_to_end.png")
        parts.append("![Images per second over the batch](end_to_end.png)\n")
    if not any("processor time" not in r["clock"] for r in reports):
        parts.append(
            "No GPU was there to measure on; where one is, this adds its tables:\n\n"
            "    python -m benchmarks.end_to_end --size sd15,sdxl --batches 1,8\n"
        )
    page = "\n".join([*parts, *map(_section, reports)])
    (folder / "end_to_end.md").write_text(page, encoding="utf-8")
    return page


def _section(r: dict) -> str:
    weights = "random weights, time only" if r["random_weights"] else "stand-in, not SD"
    lines = [
        f"## {r['size']} ({weights})\n",
        f"{r['device']}, {r['clock']}, {r['dtype']}, {r['pixels']}×{r['pixels']} pixels, NFE "
        f"{r['nfe']}, {r['repeats']} repeats; torch {r['torch']}, diffusers {r['diffusers']}.\n",
        "| batch | stock, ms/image | ours, ms/image | ours : stock | ours : one at a time | "
        "compiled, ms/image | compiled : stock | compiled : one at a time | loop, % of ours | "
        "peak, GiB |",
        "|---|" + "---:|" * 9,
    ]
    seconds, compiled = r["seconds"], r.get("compiled", {"seconds": {}, "first": {}})
    for batch in r["batches"]:
        stock, own = seconds[f"stock {batch}"], seconds[f"ours {batch}"]
        cells = [_ms(stock), _ms(own), _ratio(stock, own), _ratio(seconds["one 1"], own)]
        fast = compiled["seconds"].get(f"compiled {batch}")
        if fast:
            beside = compiled["seconds"][f"stock {batch}"]
            single = statistics.median(seconds["one 1"]) / statistics.median(fast)
            cells += [_ms(fast), _ratio(beside, fast), f"{single:.2f}"]
        else:
            cells += ["–"] * 3
        cells += [
            f"{100 * r['loop_share'][str(batch)]:.2f}",
            f"{r['peak_gib'][str(batch)]:.3f}",
        ]
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
    by_nfe = ", ".join(f"{n}: {1000 * s:.0f}" for n, s in r["by_nfe"].items())
    lines.append(f"\nMilliseconds per image by NFE, ours at batch {r['batches'][-1]}: {by_nfe}.")
    if r["difference"] is not None:
        lines.append(f"Pixels differ from the stock pipeline's by {r['difference']:.2f} of 255.")
    if compiled["first"]:
        first = ", ".join(f"{s:.0f} s at batch {b}" for b, s in compiled["first"].items())
        lines.append(f"First compiled call, wall time: {first}.")
    return "\n".join([*lines, ""])


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


def _ratio(slow: list[float], fast: list[float]) -> str:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def _figure(reports: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colors = {"stock": "#d55e00", "ours": "#0072b2", "compiled": "#009e73"}
    figure, axes = plt.subplots(
        1, len(reports), figsize=(4.2 * len(reports), 3.2), squeeze=False, layout="constrained"
    )
    for ax, r in zip(axes[0], reports, strict=True):
        seconds = {**r["seconds"], **r.get("compiled", {"seconds": {}})["seconds"], **r["seconds"]}
        for way, color in colors.items():
            points = [(b, seconds[f"{way} {b}"]) for b in r["batches"] if f"{way} {b}" in seconds]
            if points:
                rate = [1 / statistics.median(s) for _, s in points]
                ax.plot([b for b, _ in points], rate, "o-", color=color, label=way)
        single = 1 / statistics.median(seconds["one 1"])
        ax.axhline(single, color="#999999", linestyle="--", label="one at a time")
        ax.set(title=r["size"], xlabel="batch", ylabel="images per second", xscale="log")
        ax.set_xticks(r["batches"], [str(batch) for batch in r["batches"]])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
