"""Draw the claim: what the focus arm is against every arm, per run, with its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from eval.claim import MEASURES, arms_of, heads, leaning
from eval.figures import COLOURS, FONT, INK, settings

BETTER, WORSE, NEITHER = COLOURS[0], COLOURS[-1], "#8A8A8A"  # vermilion is the focus arm's alone
AXIS = {"clip": "← better: ΔFID", "fid": "ΔCLIP: better →"}
LINEAR = {"clip": 0.5, "fid": 2.0}  # up to here to scale where the axis is logarithmic beyond,
WIDE = 5  # which it is for numbers larger than this many times as much


def figure(runs: Mapping[str, dict]) -> Figure:
    """Return one column per run and one row per measure; arms stand from the top as in the table.

    An arm that a run lacks, or cannot compare, has an empty place there.
    """
    arms = arms_of(runs)
    with settings():
        size = (1.6 + 2.1 * len(runs), 1.6 + 0.36 * len(arms))
        out = Figure(figsize=size, layout="constrained")
        axes = out.subplots(2, len(runs), sharey=True, sharex="row", squeeze=False)
        for row, (at, measure) in zip(axes, MEASURES.items(), strict=True):
            for ax, results in zip(row, runs.values(), strict=True):
                _panel(ax, results["front"][at], arms, at)
            row[0].set_ylabel(measure)
            label = AXIS[at]
            if _farthest(runs, at) > WIDE * LINEAR[at]:
                for ax in row:
                    _logarithmic(ax, LINEAR[at])
                label += f"  (logarithmic beyond ±{LINEAR[at]:g})"
            row[len(runs) // 2].set_xlabel(label)
        for ax, name in zip(axes[0], heads(runs).values(), strict=True):
            ax.set_title(name.replace("`", ""), fontsize=FONT)
        axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)  # from the top; all panels share it
        out.legend(handles=_legend(), loc="outside lower center", ncols=2, frameon=False)
    return out


def _farthest(runs: Mapping[str, dict], at: str) -> float:
    """Return how far from 0 any interval of a row reaches."""
    found = [c for r in runs.values() for c in r["front"][at].values() if "interval" in c]
    return max((abs(end) for c in found for end in c["interval"]), default=0.0)


def _logarithmic(ax: Axes, linear: float) -> None:
    ax.set_xscale("symlog", linthresh=linear, linscale=1.5)
    ticks = [linear * n for n in (1, 5, 25, 125)]
    ax.xaxis.set_major_locator(FixedLocator([*(-t for t in ticks), 0, *ticks]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())


def _panel(ax: Axes, found: Mapping[str, dict], arms: Sequence[str], at: str) -> None:
    ax.axvline(0, color=INK, lw=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(range(len(arms)), arms)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.15)
    for place, arm in enumerate(arms):
        if "difference" not in (comparison := found.get(arm, {})):
            continue
        value, (low, high) = comparison["difference"], comparison["interval"]
        colour = {0: NEITHER, 1: BETTER, -1: WORSE}[leaning(comparison, at)]
        told = comparison["verdict"] in ("better", "worse")
        ax.plot([low, high], [place, place], color=colour, lw=1.3)
        ax.plot(value, place, "o", ms=4.5, color=colour, mfc=colour if told else "white")


def _legend() -> list[Line2D]:
    look = {"marker": "o", "ms": 4.5, "lw": 1.3}
    return [
        Line2D([], [], color=BETTER, label="better, by Holm's verdict", **look),
        Line2D([], [], color=BETTER, mfc="white", label="its interval alone excludes 0", **look),
        Line2D([], [], color=WORSE, label="worse, in the same way", **look),
        Line2D([], [], color=NEITHER, mfc="white", label="not distinguishable", **look),
    ]
