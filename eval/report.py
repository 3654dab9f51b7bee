"""Write one self-contained report.html for a scored run folder: verdict first, then evidence."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval import pictures, records
from eval.curve import read_curve
from eval.curve import shell_command as curve_command
from eval.folder import read_json
from eval.images import write_atomic
from eval.judge import ELSEWHERE, spelled
from eval.models import MODELS
from eval.pick import best_baseline, by_arm, load_scored, nearest, usual_omega
from eval.report_plots import legend, plots
from eval.score import BOOTSTRAP, read_config
from eval.tables import (
    CAPTION,
    DEFAULT_HEADER,
    MORE_HEADER,
    PAIRED_HEADER,
    SCORE_HEADER,
    default_rows,
    default_title,
    matched_header,
    matched_rows,
    more_rows,
    number,
    paired_rows,
    score_rows,
    sentence,
)

TEMPLATES = Path(__file__).resolve().parent
PROMPTS = TEMPLATES.parent / "prompts"
WORDS = ("better", "worse", "mixed", "not distinguishable", "out of range", "no FID", "invalid")


def report(folder: Path) -> Path:
    """Write figures/*.png and report.html from results.json and the images; return its path.

    Raises ValueError when the folder has not been scored.
    """
    folder = Path(folder)
    config = read_config(folder)
    results = load_scored(folder, config)
    curve = read_curve(folder)
    loader = FileSystemLoader(TEMPLATES)
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    jinja.filters |= {"word": word, "short": short}
    costs = records.costs(folder)
    timing = records.seconds_per_image(folder)
    html = jinja.get_template("report.html.jinja").render(
        results=results,
        config=config,
        environment=read_json(folder / "env.json"),
        arms=legend(results, curve),
        plots=plots(results, curve, folder / "figures"),
        sentences=[sentence(results, at) for at in ("clip", "fid")],
        matched=[
            (matched_header(results, at), matched_rows(results, at))
            for at in ("clip", "fid")
            if any("difference" in found for found in results["front"][at].values())
        ],
        paired=(PAIRED_HEADER, paired_rows(results)),
        scores=(SCORE_HEADER, score_rows(results, timing)),
        more=(MORE_HEADER, more_rows(results)),
        default=(DEFAULT_HEADER, default_rows(results)),
        default_title=default_title(results) if results["default_scale"] else "",
        caption=CAPTION,
        costs=(COST_HEADER, cost_rows(results, config, costs)),
        gallery=gallery(folder, results, config),
        curve=curve,
        left_out=left_out(curve) if curve else [],
        invalid=invalid(results),
        shown_omega=usual_omega(results),
        commands=[command(config, folder.name, results)]
        + ([curve_command(curve, f"runs/{folder.name}")] if curve else []),
    )
    pictures.sheet(results, config, folder, folder / "figures" / "grid.png")
    write_atomic(folder / "report.html", html.encode())
    return folder / "report.html"


def word(text: str) -> str:
    """Return the verdict that a table cell ends or begins with, as a CSS class; "" without one."""
    found = (w for w in WORDS if text.endswith(w) or text.startswith((f"{w} at", f"{w}:")))
    return next(found, "").replace(" ", "-")


def short(text: str) -> str:
    """Shorten a verdict that follows numbers in a table cell."""
    return text.replace("] not distinguishable", "] ≈")


# --- tables --------------------------------------------------------------------------------------

COST_HEADER = [
    "arm", "UNet evaluations / image", "UNet rows / image", "s / image", "peak memory, GB",
]  # fmt: skip


def cost_rows(results: dict, config: dict, costs: Mapping[str, dict]) -> list[list[str]]:
    """Return what each arm costs, one row per arm in the order of COST_HEADER.

    Seconds are those of the arm's fastest strength: the first to run pays for warming up.
    """
    rows = []
    for arm in by_arm(results):
        entries = [e for e in config["arms"] if e["arm"] == arm]
        spent = sorted({unet_rows(e, config["nfe"]) for e in entries})
        own = [costs[e["key"]] for e in entries if e["key"] in costs]
        fastest = min((c["seconds"] / c["images"] for c in own if c["images"]), default=None)
        peak = max((c["peak_bytes"] for c in own if c["peak_bytes"]), default=None)
        near = entries[0].get("approximation")
        evaluations = f"{config['nfe']} ({near['whole']} whole)" if near else str(config["nfe"])
        cells = [arm, evaluations, "–".join(map(str, {spent[0]: 0, spent[-1]: 0}))]
        rows.append([*cells, number(fastest, 3), number(None if peak is None else peak / 1e9)])
    return rows


def unet_rows(arm: dict, nfe: int) -> int:
    """Return how many latents an image of an arm sends through the UNet, by the run's config.

    An evaluation takes two, with the prompt and without; one where the plan needs no more.
    """
    if arm.get("approximation"):
        return arm["approximation"]["rows"]
    if not arm.get("plan"):  # a region: it asks for both
        return 2 * nfe
    from samplers import Plan

    return Plan.from_json(json.dumps(arm["plan"])).unet_rows


def invalid(results: dict) -> list[str]:
    """Say, one line per cell, how many of its images are invalid and why."""
    lines = []
    for key, cell in results["cells"].items():
        if not cell["invalid"]:
            continue
        reasons = [text.split(": ", 1)[-1] for text in cell["invalid_files"]]
        counts = ", ".join(f"{reasons.count(r)} × {r}" for r in dict.fromkeys(reasons))
        lines.append(f"{key}: {cell['invalid']} invalid images ({counts})")
    return lines


def left_out(curve: dict) -> list[str]:
    """Say which arms are missing in the NFE curve, one line per arm."""
    lines = []
    for arm in dict.fromkeys(entry["arm"] for entry in curve["skipped"]):
        own = [entry for entry in curve["skipped"] if entry["arm"] == arm]
        where = ", ".join(str(entry["nfe"]) for entry in own if entry["nfe"] is not None)
        at = f" at NFE {where}" if where else ""
        lines.append(f"{arm} is not there{at}: {own[0]['reason']}")
    return lines


def gallery(folder: Path, results: dict, config: dict) -> dict:
    """Return the picture table: every arm at the usual strength, prompts in groups of rows.

    The focus arm stands first and its rival, the best baseline, second, where a phone shows them.
    The groups are prompts spread over the list, and those where the focus arm gains and loses most
    CLIP against the rival, as far as there is one.
    """
    other = best_baseline(results)
    first = [results["focus"], other]
    cells = sorted(
        pictures.columns(results), key=lambda c: (*first, c["arm"]).index(c["arm"])
    )  # stable: the others keep their order
    arms, omega = by_arm(results), usual_omega(results)
    groups = [("Spread evenly over the list, not chosen", pictures.spread(config["prompts"]), {})]
    if other is not None and arms[results["focus"]]:
        ours, theirs = (nearest(arms[arm], omega)["key"] for arm in (results["focus"], other))
        clip = pictures.clip_by_prompt(folder)
        found = pictures.extremes(clip, ours, theirs, len(config["prompts"]))
        for title, change in zip(("gains", "loses"), found, strict=True):
            title = f"{results['focus']} {title} most CLIP against {other}"
            groups.append((title, list(change), change))
    return {
        "cells": cells,
        "groups": [
            (title, [pictures.row(folder, config, cells, p, change.get(p)) for p in prompts])
            for title, prompts, change in groups
        ],
    }


def _placed(entry: dict, name: str) -> str:
    """Return how an arm is asked for: a region by its name and a file."""
    if entry["sampler"] != "region":
        return name
    own, bracket, rest = name.partition("[") if "[" in name else name.partition("@")
    return f"{own}=region:{ELSEWHERE}FILE.py{bracket}{rest}"


def _is_ours(config: Mapping) -> bool:
    """Whether a run's prompts are those of this project's file of that name."""
    file = PROMPTS / Path(config["prompts_file"]).name
    if not file.is_file():
        return False
    return hashlib.sha256(file.read_bytes()).hexdigest() == config["prompts_sha256"]


def command(config: dict, out: str, results: Mapping = MappingProxyType({})) -> str:
    """Return the shell command that draws a run again, and scores it as these results were.

    A run's files hold no path of the machine that it was drawn on: where a model, a prompt file, a
    region, a scorer or a reference is none of the project's own, PATH/TO/ stands before its name.
    """
    entries = config["arms"]
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    omegas = list(dict.fromkeys(entry["omega"] for entry in entries))
    swept = [f"{arm}@w{omega:g}" for arm in arms for omega in omegas]
    places = {entry["key"]: _placed(entry, entry["key"]) for entry in entries}
    places |= {entry["arm"]: _placed(entry, entry["arm"]) for entry in entries}
    model = config["model"]
    # the folder of a real model may bear one of our names
    known = (model in MODELS and (config["standin"] or not config.get("sha256"))) or "/" in model
    words = ["python", "-m", "eval", "run", "--model", model if known else f"{ELSEWHERE}{model}"]
    if sorted(swept) == sorted(entry["key"] for entry in entries):
        words += [
            "--arms",
            ",".join(places[arm] for arm in arms),
            "--scales",
            ",".join(f"{w:g}" for w in omegas),
        ]
    else:
        words += ["--arms", ",".join(places[entry["key"]] for entry in entries)]
    file = Path(config["prompts_file"]).name
    words += ["--prompts", f"prompts/{file}" if _is_ours(config) else ELSEWHERE + file]
    words += ["--limit", str(len(config["prompts"]))]
    words += ["--seeds", ",".join(str(seed) for seed in config["seeds"])]
    words += ["--nfe", str(config["nfe"]), "--batch", str(config["batch"])]
    words += ["--dtype", config["dtype"]]
    if config.get("grid"):
        words += ["--grid", config["grid"]]
    if config.get("compiled"):
        words.append("--compile")
    words += spelled(results.get("options", {}))
    if results.get("bootstrap", BOOTSTRAP) != BOOTSTRAP:
        words += ["--bootstrap", str(results["bootstrap"])]
    return shlex.join([*words, "--out", f"runs/{out}"])
