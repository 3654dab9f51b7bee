"""Write one self-contained report.html for a scored run folder: verdict first, then evidence."""

from __future__ import annotations

import base64
import csv
import io
import shlex
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval import figures
from eval.folder import read_json
from eval.images import write_atomic
from eval.score import read_config, seconds_per_image
from eval.tables import (
    PAIRED_HEADER,
    SCORE_HEADER,
    matched_header,
    matched_rows,
    paired_rows,
    score_rows,
    sentence,
)

TEMPLATES = Path(__file__).resolve().parent
PROMPTS = TEMPLATES.parent / "prompts"
EXTREMES = 5  # prompts shown as biggest wins, and as many as biggest losses
WORDS = ("better", "worse", "mixed", "not distinguishable", "out of range")


def report(folder: Path) -> Path:
    """Write figures/*.png and report.html from results.json and the images; return its path.

    Raises ValueError when the folder has not been scored.
    """
    folder = Path(folder)
    config = read_config(folder)
    results = read_json(folder / "results.json")
    if not results:
        raise ValueError(f"{folder}: no results.json there; run 'python -m eval score' on it first")
    _in_run_order(results, config)
    drawn = folder / "figures"
    pictures = {
        "front": figures.front(results, drawn / "front.png"),
        "scale": figures.scale(results, drawn / "scale.png"),
        "grid": figures.grid(results, config, folder, drawn / "grid.png"),
    }
    loader = FileSystemLoader(TEMPLATES)
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    jinja.filters["word"] = word
    timing = seconds_per_image(folder)
    html = jinja.get_template("report.html.jinja").render(
        results=results,
        config=config,
        environment=read_json(folder / "env.json"),
        pictures={name: path and data_uri(path) for name, path in pictures.items()},
        sentences=[sentence(results, at) for at in ("clip", "fid")],
        matched=[
            (matched_header(results, at), matched_rows(results, at))
            for at in ("clip", "fid")
            if results["matched"][at]
        ],
        paired=(PAIRED_HEADER, paired_rows(results)),
        scores=(SCORE_HEADER, score_rows(results, timing)),
        contrast=contrast(folder, results, config),
        shown_omega=figures.usual_omega(results),
        command=command(config, folder.name),
    )
    write_atomic(folder / "report.html", html.encode())
    return folder / "report.html"


def _in_run_order(results: dict, config: dict) -> None:
    """Put cells and baselines, which results.json sorts by name, into the order of the run."""
    results["cells"] = {arm["key"]: results["cells"][arm["key"]] for arm in config["arms"]}
    arms = dict.fromkeys(arm["arm"] for arm in config["arms"])
    for at, words in results["verdict"].items():
        results["verdict"][at] = {arm: words[arm] for arm in arms if arm in words}


def word(text: str) -> str:
    """Return the verdict that a table cell ends or begins with, as a CSS class; "" without one."""
    found = (w for w in WORDS if text.endswith(w) or text.startswith((f"{w} at", f"{w}:")))
    return next(found, "").replace(" ", "-")


def data_uri(path: Path, side: int | None = None) -> str:
    """Return a PNG file as a data address, resized to `side` pixels when given."""
    data = path.read_bytes() if side is None else _png(figures.tile(path, side))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def best_baseline(results: dict) -> str | None:
    """Return the arm that the focus arm has to beat.

    The one with the best FID at the middle matched CLIP level, else with the lowest FID, else with
    the highest CLIP; None without other arms.
    """
    arms = {a: c for a, c in figures.by_arm(results).items() if c and a != results["focus"]}
    table = results["matched"]["clip"]
    if table:
        values = table[len(table) // 2]["values"]
        found = [arm for arm in arms if values.get(arm) is not None]
        if found:
            return min(found, key=values.__getitem__)
    with_fid = {a: [c["fid"] for c in cells if c["fid"] is not None] for a, cells in arms.items()}
    if any(with_fid.values()):
        return min((a for a in arms if with_fid[a]), key=lambda a: min(with_fid[a]))
    return max(arms, key=lambda a: max(c["clip"] for c in arms[a]), default=None)


def contrast(folder: Path, results: dict, config: dict) -> dict | None:
    """Return the prompts where the focus arm gains or loses most CLIP against the best baseline.

    Both at the guidance strength that pictures are shown at, or the nearest that they have; None
    when there is nothing to compare.
    """
    arms = figures.by_arm(results)
    other = best_baseline(results)
    if other is None or not arms[results["focus"]]:
        return None
    omega = figures.usual_omega(results)
    ours = figures.nearest(arms[results["focus"]], omega)
    theirs = figures.nearest(arms[other], omega)
    clip: dict[tuple[str, int], float] = {}
    with (folder / "per_prompt.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["clip"]:
                clip[row["key"], int(row["prompt"])] = float(row["clip"])
    change = {
        p: clip[ours["key"], p] - clip[theirs["key"], p]
        for p in range(len(config["prompts"]))
        if (ours["key"], p) in clip and (theirs["key"], p) in clip
    }
    order = sorted(change, key=change.__getitem__)
    wins = [p for p in reversed(order) if change[p] > 0][:EXTREMES]
    losses = [p for p in order if change[p] < 0][:EXTREMES]

    def rows(prompts: list[int]) -> list[dict]:
        seed = config["seeds"][0]
        images = folder / "images"
        return [
            {
                "prompt": config["prompts"][p],
                "change": f"{change[p]:+.2f}",
                "ours": data_uri(images / ours["key"] / f"{p:03d}_{seed}.png", 96),
                "theirs": data_uri(images / theirs["key"] / f"{p:03d}_{seed}.png", 96),
            }
            for p in prompts
        ]

    return {"ours": ours, "theirs": theirs, "wins": rows(wins), "losses": rows(losses)}


def command(config: dict, out: str) -> str:
    """Return the shell command that draws and scores this run again."""
    entries = config["arms"]
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    omegas = list(dict.fromkeys(entry["omega"] for entry in entries))
    swept = [f"{arm}@w{omega:g}" for arm in arms for omega in omegas]
    words = ["python", "-m", "eval", "run", "--model", config["model"]]
    if sorted(swept) == sorted(entry["key"] for entry in entries):
        words += ["--arms", ",".join(arms), "--scales", ",".join(f"{w:g}" for w in omegas)]
    else:
        words += ["--arms", ",".join(entry["key"] for entry in entries)]
    file = config["prompts_file"]
    words += ["--prompts", f"prompts/{file}" if (PROMPTS / file).is_file() else file]
    words += ["--limit", str(len(config["prompts"]))]
    words += ["--seeds", ",".join(str(seed) for seed in config["seeds"])]
    words += ["--nfe", str(config["nfe"]), "--batch", str(config["batch"])]
    words += ["--dtype", config["dtype"]]
    if config.get("grid"):
        words += ["--grid", config["grid"]]
    return shlex.join([*words, "--out", f"runs/{out}"])
