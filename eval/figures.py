"""Draw the FID–CLIP front of a scored run, and say how arms look in every plot.

Plots are Figures, to be saved as PNG (with a legend in them) or put into the report as SVG (whose
legend is the page's).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from math import hypot
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.pick import by_arm, has
from eval.svg import INK

# Okabe & Ito: tellable apart with any colour vision. The focus arm gets vermilion, alone.
FOCUS_COLOUR = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", INK, "#56B4E9", "#E69F00")
MARKERS = "osD^vPX"  # one more than colours, so that pairs of both repeat after 42
KNOWN = ("ddim", "dpm2m", "dpm2s", "dpm3m_sde", "euler", "unipc")  # look the same in every plot
DPI = 150
COLLAPSED = 4.0  # times the lowest FID of a run: points beyond are left out of the frame
CAPTION = "numbers: guidance strength ω; whiskers: 95 %; × a point with invalid images"
FONT = 8.5  # points; a panel is as wide as a phone, so that this stays legible there


def styles(arms: Sequence[str], focus: str) -> dict[str, dict]:
    """Return line styles: a CFG arm and its CFG++ form share a colour; CFG++ is dashed, hollow.

    Arms that are not `KNOWN` take, in their order, the looks that no known one of `arms` has.
    """
    families = dict.fromkeys(a.replace("_cfg++", "") for a in arms if a != focus)
    known = {name: place for place, name in enumerate(KNOWN) if name in families}
    free = (place for place in count() if place not in known.values())
    looks = {name: known[name] if name in known else next(free) for name in families}
    found: dict[str, dict] = {}
    for place, arm in enumerate(arms):
        if arm == focus:
            style = {"color": FOCUS_COLOUR, "lw": 2.4, "marker": "*", "ms": 10, "zorder": 5}
        else:
            family = looks[arm.replace("_cfg++", "")]
            style = {"color": COLOURS[family % len(COLOURS)], "lw": 1.2, "ms": 4.5}
            style["marker"] = MARKERS[family % len(MARKERS)]
            if "cfg++" in arm:
                style |= {"ls": (0, (3.5, 1.6)), "mfc": "none"}
        found[arm] = style | {"gid": f"arm-{place}"}
    return found


def interval_of(cell: Mapping, name: str) -> tuple[float, float] | None:
    """Return a cell's 95 % interval of `name`, or None where it is not known."""
    if found := cell.get(f"{name}_interval"):
        return found[0], found[1]
    half = cell.get(f"{name}_half_interval")
    return None if half is None else (cell[name] - half, cell[name] + half)


def settings():
    """Return a context in which text and axes are drawn in ink, without heavy frames."""
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return matplotlib.rc_context(
        {**dict.fromkeys((*inks, "grid.color"), INK), "font.size": FONT, "axes.linewidth": 0.6}
        | {"axes.spines.top": False, "axes.spines.right": False, "lines.markeredgewidth": 1.0}
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG on white; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return path


def line(axes: Axes, style: dict, x, y, x_err, y_err, label: str, bad: Sequence[int] = ()) -> None:
    """Draw one arm: its line, its whiskers paler behind it, and × on the points `bad`.

    x_err, y_err  of `spread`, or None
    bad           places of the points with invalid images
    """
    whiskers = {"fmt": "none", "ecolor": style["color"], "gid": style["gid"]}
    focus = style["color"] == FOCUS_COLOUR
    _, _, bars = axes.errorbar(
        x, y, yerr=y_err, xerr=x_err, elinewidth=1.1 if focus else 0.7,
        alpha=0.75 if focus else 0.22, zorder=3 if focus else 1, **whiskers,
    )  # fmt: skip
    for bar in bars:
        bar.set_gid(style["gid"])
    axes.plot(x, y, label=label, **style)
    if bad:
        axes.plot([x[i] for i in bad], [y[i] for i in bad], "x", color=INK, ms=11, gid=style["gid"])


def swatch(style: dict) -> Figure:
    """Draw a short piece of an arm's line, for a legend."""
    figure = Figure(figsize=(0.5, 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.plot([0.1, 0.9], [0, 0], **{**style, "marker": None, "gid": None})
    axes.plot([0.5], [0], **{**style, "ms": min(8, style["ms"] + 1), "gid": None})
    axes.set_xlim(0, 1)
    return figure


def spread(points: Iterable[tuple[float, tuple[float, float] | None]]) -> list[list[float]]:
    """Return matplotlib's [[below], [above]] distances; zero where there is no interval."""
    pairs = [(max(0, y - i[0]), max(0, i[1] - y)) if i else (0, 0) for y, i in points]
    return [list(side) for side in zip(*pairs, strict=True)]


def legend_below(figure: Figure, axes: Axes, title: str | None = None) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", frameon=False, title=title,
        ncols=5 if figure.get_figwidth() > 9 else 3, handlelength=3.2, title_fontsize=FONT - 0.5,
    )  # fmt: skip


def title_of(results: dict) -> str:
    return f"{results['stamp']}  ·  NFE {results['nfe']}"


def frame(axes: Axes, cells: Sequence[Mapping]) -> None:
    """Keep arms that fell apart from pressing all others into a corner, and say that they go on."""
    limit = COLLAPSED * min((cell["fid"] for cell in cells), default=0)
    near = [cell for cell in cells if cell["fid"] <= limit]
    if len(near) == len(cells):
        return
    for name, set_limits in (("clip", axes.set_xlim), ("fid", axes.set_ylim)):
        ends = [end for c in near for end in interval_of(c, name) or (c[name], c[name])]
        pad = 0.06 * (max(ends) - min(ends))
        set_limits(min(ends) - pad, max(ends) + pad)
    highest = max(cell["fid"] for cell in cells)
    text = f"points outside: {len(cells) - len(near)}, up to FID {highest:.3g}"
    ground = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1.5}
    place = {"transform": axes.transAxes, "va": "top", "zorder": 10}  # above points and labels
    axes.text(0.01, 0.98, text, fontsize=FONT - 1, bbox=ground, **place)


def front(
    results: dict, size: tuple[float, float] = (7.6, 5), legend: bool = True
) -> Figure | None:
    """Draw FID against CLIP, one line per arm through its scales; None when there is no FID.

    size    inches; narrow figures label the strengths of the focus arm alone
    legend  whether legend and title are part of the figure
    """
    if not has(results, "fid"):
        return None
    with settings():
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        _front(axes, results, styles(list(by_arm(results)), results["focus"]), size[0] > 5)
        if legend:
            axes.set_title(title_of(results), fontsize=10)
            legend_below(figure, axes, CAPTION)
    return figure


def fronts(runs: Mapping[str, dict]) -> Figure:
    """Draw the fronts of several runs side by side, under one legend; ValueError without FID.

    runs  by name; an arm looks the same in all of them
    """
    without = [name for name, results in runs.items() if not has(results, "fid")]
    if without:
        raise ValueError(f"{without[0]} was scored without FID; it has no front")
    arms = list(dict.fromkeys(arm for results in runs.values() for arm in by_arm(results)))
    with settings():
        figure = Figure(figsize=(4.6 * len(runs), 4.9), layout="constrained")
        panels = figure.subplots(1, len(runs), squeeze=False)[0]
        for axes, (name, results) in zip(panels, runs.items(), strict=True):
            _front(axes, results, styles(arms, results["focus"]), ends=False)
            axes.set_title(f"{name}: {results['prompt_count']:,} prompts", fontsize=10)
        stamps = "; ".join(dict.fromkeys(results["stamp"] for results in runs.values()))
        fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend_below(figure, fullest, f"{stamps}\n{CAPTION}")
    return figure


def _front(axes: Axes, results: dict, looks: Mapping[str, dict], ends: bool) -> None:
    """Draw one run's arms; with `ends`, other arms than the focus have their ends labelled, too."""
    found = {a: [c for c in own if c["fid"] is not None] for a, own in by_arm(results).items()}
    arms = {arm: cells for arm, cells in found.items() if cells}
    for arm, cells in arms.items():
        style = looks[arm]
        clip, fid = [c["clip"] for c in cells], [c["fid"] for c in cells]
        clip_err = spread((c["clip"], interval_of(c, "clip")) for c in cells)
        fid_err = spread((c["fid"], interval_of(c, "fid")) for c in cells)
        bad = [i for i, cell in enumerate(cells) if not cell["valid"]]
        line(axes, style, clip, fid, clip_err, fid_err, arm, bad)
    axes.set(xlabel="CLIP score → better", ylabel="FID → worse")
    axes.grid(alpha=0.15)
    frame(axes, [cell for cells in arms.values() for cell in cells])
    axes.autoscale_view()  # now, not when drawn: labels need to know what lies close
    for arm, cells in arms.items():
        bold = arm == results["focus"]
        labelled = cells if bold else [*cells[:1], *cells[1:][-1:]] if ends else []
        _strengths(axes, labelled, looks[arm], bold)


def _strengths(axes: Axes, cells: Sequence[Mapping], style: Mapping, bold: bool) -> None:
    """Label points with their strengths, those that lie on top of each other with all of theirs."""
    ground = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.4, "alpha": 0.7}
    said: list[tuple[list[str], tuple[float, float]]] = []
    for cell in cells:
        place = (cell["clip"], cell["fid"])
        if said and _distance(axes, said[-1][1], place) < FONT:
            said[-1] = ([*said[-1][0], f"{cell['omega']:g}"], place)
        else:
            said.append(([f"{cell['omega']:g}"], place))
    for strengths, place in said:
        axes.annotate(
            ", ".join(strengths), place, (4, 5), textcoords="offset points",
            fontsize=FONT if bold else FONT - 2, color=style["color"],
            fontweight="bold" if bold else "normal", gid=style["gid"],
            zorder=style.get("zorder", 2) + 1, bbox=ground,
        )  # fmt: skip


def _distance(axes: Axes, a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return how far apart two points of the data are drawn, in points of 1/72 inch."""
    (x, y), (x2, y2) = axes.transData.transform([a, b])
    return hypot(x2 - x, y2 - y) * 72 / axes.figure.dpi
