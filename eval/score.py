"""Score a run folder: features, measures, intervals, comparisons, tables.

The files written depend on the images and the configuration alone (no time, path or host), so
scoring the same images twice gives byte-identical results.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eval import records
from eval import reference as references
from eval.cells import Cell, by_prompt, measure, notes
from eval.compare import bent_fronts, comparisons, few_strengths
from eval.extractor import Extractor, extractor_for
from eval.features import extract
from eval.folder import read_json
from eval.images import write_atomic
from eval.progress import Progress
from eval.reference_set import Reference
from eval.statistics import least_p, resample_weights
from eval.tables import full_text, to_csv

COLUMNS = (
    *("arm", "omega", "scale", "guidance", "n", "invalid", "missing", "duplicates", "valid"),
    *("clip", "clip_half_interval", "clip2", "fid", "fid_floor", "fid_infinity", "kid", "cmmd"),
    *("precision", "recall", "all_right", "pairs_right", "saturation", "contrast", "latent_std"),
)

BOOTSTRAP = 2000  # resamples of the prompts
FEW_PROMPTS = 30  # below, percentile intervals hold the truth less often than they say


def stamp(config: dict) -> str:
    """Say which model made the numbers; a stand-in is never mistaken for Stable Diffusion."""
    if config["standin"]:
        return f"stand-in {config['model']}: not SD numbers"
    return f"model {config['model']}"


def read_config(folder: Path) -> dict:
    """Return a run's configuration; ValueError when the folder holds no run."""
    config = read_json(folder / "config.json")
    if not config:
        raise ValueError(f"{folder}: no config.json there; give a folder of 'python -m eval run'")
    return config


def score(
    folder: Path,
    scorer: str | None = None,
    reference: str | None = None,
    bootstrap: int = BOOTSTRAP,
    second_scorer: str | None = None,
    device: str | None = None,
) -> dict:
    """Score all arms of a run folder, write results.json, results.csv and per_prompt.csv, print.

    scorer         open_clip `NAME/PRETRAINED` or a folder; default by the kind of model
    reference      folder of images or .npz; default for stand-ins: 5,000 renders of
                   other captions' scenes; "standin-domain": of scenes as they come
    bootstrap      resamples of the prompts, at least 1
    second_scorer  as `scorer`; default: none for stand-ins
    device         where the scorers run; default: cuda, else cpu
    Raises ValueError, in one line, when the folder, scorer or reference cannot be used.
    """
    folder = Path(folder)
    config = read_config(folder)
    prompts = config["prompts"]
    weights = resample_weights(len(prompts), bootstrap)
    wants_fid = config["standin"] or reference is not None
    networks = scorer, config["standin"], wants_fid, second_scorer, device
    extractor, problems = extractor_for(*networks)
    ref = None
    if not wants_fid:
        problems["fid"] = "no reference given; pass --reference with a folder or an .npz"
    elif "fid" not in problems:
        ref = references.load(reference, extractor, tuple(config["size"]), config["standin"])
    cells = _cells(folder, config, extractor, weights, ref)
    if not any(cell.entry["n"] for cell in cells.values()):
        raise ValueError(f"{folder}: no usable image of any arm; start 'python -m eval run' again")

    results = {
        "stamp": stamp(config),
        **{k: config[k] for k in ("model", "standin", "nfe", "seeds", "prompts_sha256")},
        "noise": config["noise"],
        "prompt_count": len(prompts),
        "bootstrap": bootstrap,
        "options": _portable(scorer=scorer, second_scorer=second_scorer, reference=reference),
        "scorer": extractor.scorer.name,
        "scorer_identity": extractor.scorer.identity,
        "second_scorer": extractor.second.name if extractor.second else None,
        "fid": {
            "features": extractor.fid_name if ref else None,
            "reference": ref.label if ref else None,
            "reference_n": ref.statistics.n if ref else None,
            "reason": problems.get("fid"),
        },
        **_looks(ref),
        "cells": {key: cell.entry for key, cell in cells.items()},
        **comparisons(cells),
    }
    doubts = [*_doubts(config, ref), *few_strengths(cells), *bent_fronts(results["front"])]
    results["notes"] = [*notes(cells, problems), *doubts]
    family = len(results["verdict"]["clip"])  # Holm's smallest p-value has this factor
    if least_p(len(prompts)) * family >= 0.05:
        results["notes"].append(
            f"{len(prompts)} prompts are too few for a verdict on {family} arms, whatever the "
            f"number of seeds; take {FEW_PROMPTS} or more"
        )
    elif 2 / (bootstrap + 1) * family >= 0.05:
        results["notes"].append(
            f"{bootstrap} resamples are too few for a verdict on {family} arms; pass --bootstrap "
            "2000"
        )
    _write(folder, results, cells, prompts)
    print(full_text(results, records.seconds_per_image(folder)))
    if any(cell.entry["missing"] for cell in cells.values()):
        print(f"\nTo finish the run: {_continuing(config, folder, results)}")
    return results


def _portable(**given: str | None) -> dict[str, str]:
    """Return the options that were given; of local files and folders, only their names."""
    found = {}
    for name, value in given.items():
        if value is not None:
            path = Path(value.removeprefix("local-dir:"))
            found[name.replace("_", "-")] = path.name if path.exists() else value
    return found


def _doubts(config: dict, reference: Reference | None) -> list[str]:
    """Say what the intervals of such a run do not cover (docs/results/coverage.md)."""
    doubts, prompts = [], len(config["prompts"])
    if reference and reference.size and list(reference.size) != list(config["size"]):
        theirs, ours = ("×".join(map(str, s)) for s in (reference.size, config["size"]))
        doubts.append(
            f"the reference's pictures were resized to {theirs} and the images are {ours}: FID is "
            "off by what that changes; make one with python -m eval reference --size "
            f"{max(config['size'])}"
        )
    if prompts < FEW_PROMPTS:
        doubts.append(
            f"{prompts} prompts are few: intervals over prompts are somewhat too narrow then, "
            f"whatever the number of seeds; take {FEW_PROMPTS} or more"
        )
    return doubts


def _continuing(config: dict, folder: Path, results: dict) -> str:
    """Return the command that draws what is missing in a run's folder."""
    from eval.report import command  # here: the report builds on scores

    return shlex.join([*shlex.split(command(config, folder.name, results))[:-1], str(folder)])


def _cells(folder: Path, config: dict, extractor: Extractor, weights, ref) -> dict[str, Cell]:
    known_bad = records.invalid(folder)
    prompts, seeds, size = config["prompts"], config["seeds"], tuple(config["size"])
    text = extractor.scorer.texts(prompts)
    text2 = extractor.second.texts(prompts) if extractor.second else None
    cells: dict[str, Cell] = {}
    floors: dict[int, float | None] = {}
    with Progress(len(config["arms"]), "scoring", unit="arms × scales") as progress:
        for arm in config["arms"]:
            key = arm["key"]
            bad = known_bad.get(key, [])
            features = extract(folder, key, prompts, seeds, size, bad, extractor, text, text2)
            cells[key] = measure(arm, features, weights, ref, floors)
            progress.advance(1, key)
    return cells


def _looks(ref: Reference | None) -> dict[str, float | None]:
    """Return the reference's mean saturation and contrast, which those of the arms are held to."""
    if ref is None or ref.looks is None:
        return {"saturation": None, "contrast": None}
    saturation, contrast = ref.looks.astype(np.float64).mean(0).tolist()
    return {"saturation": saturation, "contrast": contrast}


def _write(folder: Path, results: dict, cells: Mapping[str, Cell], prompts: list[str]) -> None:
    """Write results.json (sorted keys), results.csv and per_prompt.csv, each atomically."""
    text = json.dumps(results, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    rows = [[key, *(cell.entry[c] for c in COLUMNS)] for key, cell in cells.items()]
    files = {"results.json": text + "\n", "results.csv": to_csv(["key", *COLUMNS], rows)}
    rows = []
    for key, cell in cells.items():
        cosines = by_prompt(cell.features, cell.features.clip, len(prompts))
        checks = by_prompt(cell.features, cell.features.checks[:, 0], len(prompts))
        for p, (values, right) in enumerate(zip(cosines, checks, strict=True)):
            mean = f"{100 * values.astype(np.float64).mean():.4f}" if len(values) else ""
            right = right[~np.isnan(right)]
            share = f"{right.mean():.4f}" if len(right) else ""
            place = [key, cell.entry["arm"], cell.entry["omega"], p]
            rows.append([*place, len(values), mean, share, prompts[p]])
    header = ["key", "arm", "omega", "prompt", "n", "clip", "all_right", "text"]
    files["per_prompt.csv"] = to_csv(header, rows)
    for name, content in files.items():
        write_atomic(folder / name, content.encode())
