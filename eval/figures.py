"""Draw the figures of a scored run: FID–CLIP front, curves over guidance, picture grid."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

# Okabe & Ito: tellable apart with any colour vision. The focus arm gets vermilion, alone.
FOCUS_COLOUR = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP"
DPI = 150
TILE = 112  # pixels of one picture in the grid
ROWS = 8


def styles(arms: Sequence[str], focus: str) -> dict[str, dict]:
    """Return line styles: a CFG arm and its CFG++ form share a colour; CFG++ is dashed."""
    families = list(dict.fromkeys(a.replace("_cfg++", "") for a in arms if a != focus))
    found = {}
    for arm in arms:
        if arm == focus:
            found[arm] = {"color": FOCUS_COLOUR, "lw": 2.6, "marker": "*", "ms": 11, "zorder": 5}
        else:
            place = families.index(arm.replace("_cfg++", ""))
            found[arm] = {"color": COLOURS[place % len(COLOURS)], "lw": 1.3, "ms": 5}
            found[arm]["marker"] = MARKERS[place % len(MARKERS)]
        found[arm]["ls"] = "--" if "cfg++" in arm else "-"
    return found


def by_arm(results: dict) -> dict[str, list[dict]]:
    """Return each arm's cells that hold images, ordered by omega; arms in the order of the run."""
    arms: dict[str, list[dict]] = {}
    for key, cell in results["cells"].items():
        arms.setdefault(cell["arm"], [])
        if cell["n"]:
            arms[cell["arm"]].append({**cell, "key": key})
    return {arm: sorted(cells, key=lambda c: c["omega"]) for arm, cells in arms.items()}


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return path


def front(results: dict, path: Path) -> Path | None:
    """Draw FID against CLIP, one line per arm through its scales; None when there is no FID."""
    arms = by_arm(results)
    if all(cell["fid"] is None for cells in arms.values() for cell in cells):
        return None
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for arm, style in styles(list(arms), results["focus"]).items():
        cells = [cell for cell in arms[arm] if cell["fid"] is not None]
        clip, fid = [c["clip"] for c in cells], [c["fid"] for c in cells]
        axes.plot(clip, fid, label=arm, **style)
        bold = arm == results["focus"]
        for i, cell in enumerate(cells):
            if bold or i in (0, len(cells) - 1):
                axes.annotate(
                    f"{cell['omega']:g}", (cell["clip"], cell["fid"]), (4, 5),
                    textcoords="offset points", fontsize=8 if bold else 6.5,
                    color=style["color"], fontweight="bold" if bold else "normal",
                )  # fmt: skip
        bad = [cell for cell in cells if not cell["valid"]]
        axes.plot([c["clip"] for c in bad], [c["fid"] for c in bad], "x", color="0.3", ms=11)
    axes.set(xlabel="CLIP score → better", ylabel="FID → worse")
    axes.set_title(f"{results['stamp']}  ·  NFE {results['nfe']}", fontsize=10)
    axes.grid(alpha=0.25)
    figure.legend(
        loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, handlelength=3.2,
        title="numbers: guidance strength ω; × a point with invalid images", title_fontsize=8,
    )  # fmt: skip
    return _save(figure, path)


def scale(results: dict, path: Path) -> Path:
    """Draw CLIP, FID and the checker's score over guidance strength, as far as they exist."""
    arms = by_arm(results)
    panels = [
        (name, label, factor)
        for name, label, factor in (
            ("clip", "CLIP score", 1), ("fid", "FID", 1), ("all_right", "all right, %", 100)
        )
        if any(cell[name] is not None for cells in arms.values() for cell in cells)
    ]  # fmt: skip
    figure = Figure(figsize=(3.9 * len(panels) + 0.6, 4.4), layout="constrained")
    for axes, (name, label, factor) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for arm, style in styles(list(arms), results["focus"]).items():
            cells = [cell for cell in arms[arm] if cell[name] is not None]
            y = [factor * c[name] for c in cells]
            axes.plot([c["omega"] for c in cells], y, label=arm, **style)
        axes.set(xlabel="guidance strength ω", ylabel=label)
        axes.grid(alpha=0.25)
    figure.suptitle(f"{results['stamp']}  ·  NFE {results['nfe']}", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5,
        handlelength=3.2,
    )  # fmt: skip
    return _save(figure, path)


def nearest(cells: list[dict], omega: float) -> dict | None:
    """Return the cell whose guidance strength is closest to `omega`."""
    return min(cells, key=lambda cell: abs(cell["omega"] - omega), default=None)


def usual_omega(results: dict) -> float:
    """Return the strength that pictures are shown at: the middle one of the focus arm's scales.

    Not the one with the best FID: with few prompts that is often hardly any guidance.
    """
    arms = by_arm(results)
    cells = arms[results["focus"]] or [cell for found in arms.values() for cell in found]
    return cells[len(cells) // 2]["omega"]


def tile(path: Path, side: int = TILE) -> Image.Image:
    """Read a picture at `side` pixels; a grey tile with a cross where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError):
        blank = Image.new("RGB", (side, side), "#bbbbbb")
        ImageDraw.Draw(blank).line((0, 0, side, side), fill="#777777", width=2)
        return blank


def grid(results: dict, config: dict, folder: Path, path: Path) -> Path:
    """Draw prompts × arms at one guidance strength, every row from the same start noise."""
    arms = by_arm(results)
    omega = usual_omega(results)
    columns = [cell for cells in arms.values() if (cell := nearest(cells, omega))]
    prompts, seed = config["prompts"], config["seeds"][0]
    # spread over the list, which may be ordered by difficulty
    chosen = np.unique(np.linspace(0, len(prompts) - 1, min(ROWS, len(prompts))).astype(int))
    text_width, head, gap = 250, 62, 4
    width = text_width + len(columns) * (TILE + gap)
    height = head + len(chosen) * (TILE + gap) + 24
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    font, small = (ImageFont.truetype(findfont("DejaVu Sans"), size) for size in (14, 11))
    pen.text((8, 8), "same prompt and seed in a row", "#444444", small)
    for c, cell in enumerate(columns):
        left = text_width + c * (TILE + gap)
        colour = FOCUS_COLOUR if cell["arm"] == results["focus"] else "#222222"
        name = cell["arm"].replace("_cfg++", "\n_cfg++", 1).replace("[", "\n[", 1)
        pen.text((left + 2, 6), f"{name}\nω = {cell['omega']:g}", colour, small)
    for r, p in enumerate(chosen):
        top = head + r * (TILE + gap)
        lines = textwrap.wrap(prompts[p], 30)[:6]
        pen.text((8, top + 4), "\n".join(lines), "black", font, spacing=4)
        for c, cell in enumerate(columns):
            picture = tile(folder / "images" / cell["key"] / f"{p:03d}_{seed}.png")
            sheet.paste(picture, (text_width + c * (TILE + gap), top))
    pen.text((8, height - 20), f"{results['stamp']} · NFE {results['nfe']}", "#444444", small)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
