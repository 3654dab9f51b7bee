"""Draw every prompt with every seed and arm into a run folder, resumably.

All arms see the same start noise for a (prompt, seed). Several processes may share the work
(`eval.shards`); whoever is killed, the same command completes the folder to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from eval import models, records
from eval.arms import Arm, parse_arms
from eval.checks import FLAT, NOT_FINITE
from eval.config import Request, describe
from eval.drawers import Drawer, drawer
from eval.drawing import Drawing, Job
from eval.folder import check_folder, open_folder, record_environment, sweep
from eval.lock import Lock
from eval.prompts import read_prompts
from eval.shards import Shard, shard, wait

__all__ = ["FLAT", "NOT_FINITE", "Outcome", "Request", "run"]


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    drawn, kept  images of this process's part
    invalid      one line per arm with images that cannot be scored
    missing      one line per arm that other processes of the launch left incomplete
    rank         of this process; the one of rank 0 has waited for all others and may score
    """

    folder: Path
    drawn: int
    kept: int
    invalid: list[str]
    notes: list[str]
    missing: list[str]
    rank: int = 0


def run(request: Request, load: Callable[..., models.Sampler] = models.load) -> Outcome:
    """Draw what is missing in the request's folder.

    load    loads a model, see `eval.models.load`; tests give a double
    Raises ValueError, before anything is drawn where possible, for what the caller can mend.
    """
    from samplers import available

    for name, value in (("nfe", request.nfe), ("batch", request.batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    part = shard()
    prompts = read_prompts(request.prompts, request.limit)
    guidance = {recipe.name: recipe.guidance for recipe in available()}
    arms = parse_arms(request.arms, request.scales, guidance)
    source = models.find(request.model)
    device = models.choose_device(request.device, part.local if part.world > 1 else None)
    dtype = models.choose_dtype(request.dtype, source, device)
    if device.startswith("cuda:"):  # torch takes no other; plain "cuda" is the current one anyway
        torch.cuda.set_device(device)
    check_folder(request.out)
    if request.compile and any(arm.approximate for arm in arms):
        raise ValueError(
            "approximated arms run parts of the UNet, which --compile does not compile; leave one "
            "of --compile and --approximate out"
        )
    sd = load(source, request.nfe, device, dtype)
    if request.compile:
        sd.compile_unet()
    drawers = {arm: drawer(arm, sd, request.nfe, request.grid) for arm in arms}
    config = describe(request, source, sd, dtype, prompts, drawers)
    if not (request.out / "config.json").exists():  # a mistake shows before the other arms' work
        _try_regions(drawers, prompts[0], request.seeds[0])
    with Lock(request.out, part.launch) as lock:
        if lock.alone:
            sweep(request.out)
        config = open_folder(request.out, config)
        own = records.Records(request.out, part.rank)
        drawing = Drawing(config, request.out, own)
        lock.share()
        note = record_environment(records.rank_file(request.out, "env", part.rank), device)
        notes = [*lock.notes, *([note] if note else []), *_others(config, arms)]
        return _draw(request, drawing, {arm.key: d for arm, d in drawers.items()}, part, notes)


def _draw(
    request: Request,
    drawing: Drawing,
    drawers: dict[str, Drawer],
    part: Shard,
    notes: list[str],
) -> Outcome:
    """Draw this process's part; the first one then waits until the others' parts are there."""
    jobs = drawing.jobs(list(drawers))
    own = part.slice(jobs)
    label = "run" if part.world == 1 else f"run, process {part.rank} of {part.world}"
    drawn = drawing.draw(drawers, own, label)
    kept = sum(len(job.rows) for job in own) - drawn
    if part.rank:
        return Outcome(request.out, drawn, kept, [], notes, [], part.rank)
    # Others draw batches like ours: one that takes three times our slowest is not coming.
    patience = max(request.patience, 3 * drawing.slowest)
    missing = wait(part.others(jobs), drawing.complete, patience)
    invalid = records.summary(request.out)
    return Outcome(request.out, drawn, kept, invalid, notes, _by_arm(missing))


def _try_regions(drawers: dict[Arm, Drawer], prompt: str, seed: int) -> None:
    regions = {arm.region: drawer for arm, drawer in drawers.items() if arm.region}
    for region in regions.values():
        region.draw([prompt], [seed])


def _others(config: dict, arms: list[Arm]) -> list[str]:
    """Say which arms of the folder are left as they are."""
    asked = {arm.key for arm in arms}
    keys = [entry["key"] for entry in config["arms"] if entry["key"] not in asked]
    if not keys:
        return []
    more = ", …" if len(keys) > 3 else ""
    return [
        f"note: the folder also holds {', '.join(keys[:3])}{more} ({len(keys)} arms × scales); "
        "they stay as they are and are scored, too"
    ]


def _by_arm(missing: list[Job]) -> list[str]:
    keys = [job.key for job in missing]
    return [
        f"{key}: {keys.count(key)} batch{'es' if keys.count(key) > 1 else ''}"
        for key in dict.fromkeys(keys)
    ]
