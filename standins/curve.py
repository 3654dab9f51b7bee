"""Draw Fréchet distance and captions kept over the guidance scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def plot(rows: list[dict], path: Path) -> None:
    """Save the curve of `standins.evaluate.scan`'s rows as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    scales = [row["scale"] for row in rows]
    left.plot(scales, [row["fid"] for row in rows], "o-", color="C0")
    left.set(xlabel="CFG scale", ylabel="Fréchet distance", xscale="log")
    left.set_xticks(scales, [f"{s:g}" for s in scales])
    left.minorticks_off()
    right = left.twinx()
    kept = [row["right"] for row in rows]
    low, high = zip(*(k["interval95"] for k in kept), strict=True)
    right.plot(scales, [100 * k["value"] for k in kept], "s--", color="C1")
    right.fill_between(scales, np.multiply(low, 100), np.multiply(high, 100), color="C1", alpha=0.2)
    right.set_ylabel("captions kept (checker), %")
    left.yaxis.label.set_color("C0")
    right.yaxis.label.set_color("C1")
    figure.suptitle("stand-in, not Stable Diffusion", fontsize=9)
    figure.savefig(path, dpi=120)
