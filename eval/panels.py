"""Draw one number of all arms over guidance strength or over NFE, as panels of a phone's width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from eval.figures import COLLAPSED, FONT, interval_of, legend_below, line, settings, spread
from eval.pick import by_arm
from eval.svg import INK

# name in a cell, label, factor
SCORES = (
    ("fid", "FID ↓", 1), ("clip", "CLIP score ↑", 1), ("clip2", "second scorer's CLIP ↑", 1),
    ("all_right", "all right, % ↑", 100),
)  # fmt: skip
BURN = (
    ("saturation", "saturation", 1), ("contrast", "contrast", 1),
    ("latent_std", "standard deviation of latents", 1),
)  # fmt: skip

WIDE = 8  # FID spans more where a sampler falls apart


@dataclass(frozen=True)
class Panel:
    """One number of every arm over x.

    points  arm → (x, y, 95 % interval of y or None, whether all images are valid)
    level   what the reference has, drawn as a line
    wide    values span so much that only a logarithmic axis shows all of them
    frame   the part of the axis that is drawn, without what fell apart; None for all of it
    """

    label: str
    points: dict[str, list[tuple[float, float, tuple[float, float] | None, bool]]]
    level: float | None = None
    wide: bool = False
    frame: tuple[float, float] | None = None


def panels(
    cells: Mapping[str, Sequence[dict]],
    x: str,
    wanted: Iterable[tuple[str, str, float]] = SCORES,
    levels: Mapping[str, float] | None = None,
) -> list[Panel]:
    """Return a panel for every wanted number that some cell has.

    cells   arm → cells in the order of x
    x       name of the number on the axis, "omega" or "nfe"
    levels  the reference's numbers by name
    """
    found = []
    for name, label, factor in wanted:
        points = {
            arm: [
                (c[x], factor * c[name], _scaled(interval_of(c, name), factor), c["valid"])
                for c in own
                if c.get(name) is not None
            ]
            for arm, own in cells.items()
        }
        if any(points.values()):
            values = [point[1] for own in points.values() for point in own]
            wide = name == "fid" and min(values) > 0 and max(values) > WIDE * min(values)
            level = (levels or {}).get(name)
            frame = None if name == "fid" else _frame(cells, name, factor, level)
            found.append(Panel(label, points, level, wide, frame))
    return found


def _frame(
    cells: Mapping[str, Sequence[dict]], name: str, factor: float, level: float | None
) -> tuple[float, float] | None:
    """Return where the arms are that did not fall apart by their FID; None for everywhere."""
    known = [c for own in cells.values() for c in own if c.get(name) is not None]
    fid = [c["fid"] for c in known if c["fid"] is not None]
    near = [c for c in known if c["fid"] is None or c["fid"] <= COLLAPSED * min(fid)]
    if len(near) == len(known):
        return None
    ends = [factor * end for c in near for end in interval_of(c, name) or (c[name], c[name])]
    ends += [] if level is None else [level]
    pad = 0.06 * (max(ends) - min(ends))
    return min(ends) - pad, max(ends) + pad


def over_strength(results: dict) -> list[Panel]:
    """Return FID, CLIP and the checker's score over ω, as far as they were measured."""
    return panels(by_arm(results), "omega")


def burn(results: dict) -> list[Panel]:
    """Return what too much guidance drives away from the reference: saturation, contrast, latents.

    Beside CLIP and FID, because burnt pictures may score well in either.
    """
    names = [name for name, _, _ in BURN]
    levels = {n: results[n] for n in names if isinstance(results.get(n), int | float)}
    return panels(by_arm(results), "omega", BURN, levels)


def over_nfe(curve: dict) -> list[Panel]:
    """Return FID, CLIP and the checker's score over NFE, from `eval.curve`'s points."""
    cells: dict[str, list[dict]] = {}
    for point in sorted(curve["points"], key=lambda p: p["nfe"]):
        cells.setdefault(point["arm"], []).append(point)
    return panels(cells, "nfe")


def _scaled(interval: tuple[float, float] | None, factor: float) -> tuple[float, float] | None:
    return None if interval is None else (factor * interval[0], factor * interval[1])


def draw(
    found: Sequence[Panel],
    style: Mapping[str, dict],
    x_label: str,
    title: str | None = None,
    ticks: Sequence[int] | None = None,
) -> Figure:
    """Draw panels side by side; with `title` also that and a legend.

    style  of `figures.styles`, for every arm
    ticks  values of a logarithmic x axis
    """
    with settings():
        width, height = (3.6, 2.9) if title is None else (3.9, 4.2)
        figure = Figure(figsize=(width * len(found), height), layout="constrained")
        row = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, panel in zip(row, found, strict=True):
            _draw_one(axes, panel, style)
            axes.set(xlabel=x_label, ylabel=panel.label)
            if ticks:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        if title is not None:
            figure.suptitle(title, fontsize=10)
            legend_below(figure, row[0])
    return figure


def _draw_one(axes: Axes, panel: Panel, style: Mapping[str, dict]) -> None:
    for arm, found in panel.points.items():
        if found:
            x, y, intervals, valid = zip(*found, strict=True)
            bad = [i for i, good in enumerate(valid) if not good]
            whiskers = spread(zip(y, intervals, strict=True))
            line(axes, style[arm], x, y, None, whiskers, arm, bad)
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, lw=1, ls=":")
        axes.annotate(
            "reference", (1, panel.level), (0, 3), xycoords=("axes fraction", "data"),
            ha="right", textcoords="offset points", fontsize=FONT - 1, color=INK,
        )  # fmt: skip
    if panel.wide:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    if panel.frame:
        low, high = panel.frame
        outside = [y for own in panel.points.values() for _, y, *_ in own if not low <= y <= high]
        axes.set_ylim(low, high)
        if outside:
            far = max(outside, key=lambda y: max(low - y, y - high))
            text = f"points outside: {len(outside)}, as far as {far:.3g}"
            axes.text(0.02, 0.02, text, transform=axes.transAxes, fontsize=FONT - 1)
    axes.grid(alpha=0.15)
