"""Show images: small tiles, the sheet arms × prompts, and rows of the report's picture table."""

from __future__ import annotations

import base64
import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from eval.figures import FOCUS_COLOUR, title_of
from eval.pick import by_arm, nearest, usual_omega

TILE = 112  # pixels of one picture in the sheet
EMBEDDED = 160  # pixels of one picture in the report, at most
ROWS = 8
EXTREMES = 5  # prompts shown as biggest gains, and as many as biggest losses


def tile(path: Path, side: int = TILE) -> Image.Image:
    """Read a picture at `side` pixels; a grey tile with a cross where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError):
        blank = Image.new("RGB", (side, side), "#bbbbbb")
        ImageDraw.Draw(blank).line((0, 0, side, side), fill="#777777", width=2)
        return blank


def data_uri(path: Path, native: int) -> str:
    """Return a picture as a data address: as PNG where it is small, else smaller, as WebP.

    native  the picture's side in pixels
    """
    buffer = io.BytesIO()
    if native <= EMBEDDED:
        kind = "png"
        tile(path, native).save(buffer, "PNG", optimize=True)
    else:
        kind = "webp"
        tile(path, EMBEDDED).save(buffer, "WEBP", quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def columns(results: dict) -> list[dict]:
    """Return every arm's cell nearest to the usual strength, in the order of the arms."""
    omega = usual_omega(results)
    return [cell for cells in by_arm(results).values() if (cell := nearest(cells, omega))]


def spread(prompts: Sequence[str]) -> list[int]:
    """Return indices spread evenly over the list, which may be ordered by difficulty."""
    count = min(ROWS, len(prompts))
    return sorted(set(np.linspace(0, len(prompts) - 1, count).astype(int).tolist()))


def clip_by_prompt(folder: Path) -> dict[tuple[str, int], float]:
    """Read the mean CLIP of each (arm key, prompt index) from per_prompt.csv."""
    with (folder / "per_prompt.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["clip"]]
    return {(row["key"], int(row["prompt"])): float(row["clip"]) for row in rows}


def extremes(
    clip: Mapping[tuple[str, int], float], ours: str, theirs: str, prompts: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Return where key `ours` gains and loses most CLIP on key `theirs`: prompt → difference."""
    change = {
        p: clip[ours, p] - clip[theirs, p]
        for p in range(prompts)
        if (ours, p) in clip and (theirs, p) in clip
    }
    order = sorted(change, key=change.__getitem__)
    gains = {p: change[p] for p in reversed(order) if change[p] > 0}
    losses = {p: change[p] for p in order if change[p] < 0}
    return dict(list(gains.items())[:EXTREMES]), dict(list(losses.items())[:EXTREMES])


def row(
    folder: Path, config: dict, cells: Sequence[dict], prompt: int, change: float | None = None
) -> dict:
    """Return a row of the picture table: the prompt, and the first seed's picture of each cell."""
    file = f"{prompt:03d}_{config['seeds'][0]}.png"
    side = int(np.max(config["size"]))
    images = [data_uri(folder / "images" / cell["key"] / file, side) for cell in cells]
    shown = None if change is None else f"{change:+.2f}"
    return {"prompt": config["prompts"][prompt], "change": shown, "images": images}


def sheet(results: dict, config: dict, folder: Path, path: Path) -> Path:
    """Write a PNG of prompts × arms at one strength, every row from the same start noise."""
    cells, prompts, seed = columns(results), config["prompts"], config["seeds"][0]
    chosen = spread(prompts)
    heads = [f"{_broken(cell['arm'])}\nω = {cell['omega']:g}" for cell in cells]
    text_width, gap, head = 250, 4, 28 + 16 * max(text.count("\n") for text in heads)
    width = text_width + len(cells) * (TILE + gap)
    height = head + len(chosen) * (TILE + gap) + 24
    paper = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(paper)
    font, small = (ImageFont.truetype(findfont("DejaVu Sans"), size) for size in (14, 11))
    pen.text((8, 8), "same prompt and seed in a row", "#444444", small)
    for c, cell in enumerate(cells):
        colour = FOCUS_COLOUR if cell["arm"] == results["focus"] else "#222222"
        pen.text((text_width + c * (TILE + gap) + 2, 6), heads[c], colour, small)
    for r, p in enumerate(chosen):
        top = head + r * (TILE + gap)
        lines = textwrap.wrap(prompts[p], 30)[:6]
        pen.text((8, top + 4), "\n".join(lines), "black", font, spacing=4)
        for c, cell in enumerate(cells):
            picture = tile(folder / "images" / cell["key"] / f"{p:03d}_{seed}.png")
            paper.paste(picture, (text_width + c * (TILE + gap), top))
    pen.text((8, height - 20), title_of(results), "#444444", small)
    path.parent.mkdir(parents=True, exist_ok=True)
    paper.save(path)
    return path


def _broken(arm: str) -> str:
    """Break an arm's name into lines that fit over a picture."""
    return arm.replace("_cfg++", "\n_cfg++", 1).replace("[", "\n[", 1)
