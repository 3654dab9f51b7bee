"""A search from its settings to a preset file: `python -m eval search`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from eval import models
from eval.extractor import extractor_for
from eval.images import write_atomic
from eval.metrics import Statistics
from eval.progress import Progress
from eval.search import space, teacher
from eval.search.evolution import Evolution, Outcome, Settings, Standing
from eval.search.journal import Journal
from eval.search.objectives import Frechet, Objective, Planner, Teacher, batches
from eval.search.rows import Rows, check_development
from samplers import Plan, compile_plan
from samplers.errors import choose, finite, whole
from samplers.grids import make_grid
from samplers.presets import Preset

MEASURING = ("nfe", "mode", "objective", "omegas", "sampler")
HELD = 4  # of the pairs, one in so many is kept from the fit, to judge it
LEAST_PAIRS = 128


@dataclass(frozen=True)
class Request:
    """What to search; see `python -m eval search --help`."""

    model: str
    nfe: int
    out: Path
    mode: str = "evolve"
    objective: str = "fd"
    budget: int = 6000
    omegas: tuple[float, ...] = (1.5, 3.0)
    prompts: Path | None = None
    seed: int = 0
    screen: int = 64
    clip_weight: float = 1.0
    clip_floor: float = 0.0
    sampler: str = "exp2m_cfg++"
    scorer: str | None = None
    reference: str | None = None
    device: str | None = None
    dtype: str | None = None
    compile: bool = False


@dataclass(frozen=True)
class Found:
    """The preset, the file that it is in, and what to tell: lines of text."""

    preset: Preset
    file: Path
    lines: list[str]


def search(request: Request, load: Callable[..., models.Sampler] = models.load) -> Found:
    """Run a search, or finish a killed one; ValueError for what the caller can mend."""
    choose("mode", request.mode, dict.fromkeys(("evolve", "teacher")))
    choose("objective", request.objective, dict.fromkeys(("fd", "teacher")))
    whole("nfe", request.nfe, 2, 200)
    finite("clip_weight", request.clip_weight)
    finite("clip_floor", request.clip_floor)
    prompts = check_development(request.prompts) if request.prompts else None
    source = models.find(request.model)
    if prompts is None and not source.standin:
        raise ValueError(
            f"model {request.model!r} is no stand-in, whose captions can be made up; give --prompts"
        )
    device = models.choose_device(request.device)
    dtype = models.choose_dtype(request.dtype, source, device)
    sd = load(source, request.nfe, device, dtype)
    rows = Rows(prompts, request.omegas)
    objective = None if request.mode == "teacher" else _objective(request, source, sd, rows)
    config = _config(request, source, sd, dtype, prompts) | _judged(objective)
    journal = Journal(request.out, config)
    if request.compile:
        sd.compile_unet()
    if objective is None:
        preset, lines = _fit(request, sd, rows)
    else:
        preset, lines = _evolve(request, sd, objective, journal)
    told = {"model": source.label, "mode": request.mode, "dev": lines}
    if source.standin:
        told["note"] = "made on a stand-in, not for Stable Diffusion"
    preset = replace(preset, about=told)
    file = request.out / "preset.json"
    write_atomic(file, preset.to_json().encode())
    return Found(preset, file, lines)


def _recipe(request: Request, sd: models.Sampler, omega: float) -> Plan:
    return compile_plan(request.sampler, sd.schedule, nfe=request.nfe, omega=omega)


def _of_preset(sd: models.Sampler, preset: Preset) -> Planner:
    nfe = len(preset.steps)
    return lambda omega: compile_plan(
        preset.sampler, sd.schedule, nfe=nfe, omega=omega, preset=preset
    )


def _config(request, source, sd, dtype, prompts) -> dict:
    """What decides the measurements; another budget, seed or floor goes on with the same ones."""
    fields = {name: getattr(request, name) for name in MEASURING}
    recipe = json.loads(_recipe(request, sd, request.omegas[0]).to_json())
    identity = models.fingerprint(source, sd.card())
    told = {"model": source.label, **identity, **fields, "dtype": dtype, "prompts": prompts}
    told |= {"compiled": True} if request.compile else {}
    return json.loads(json.dumps(told | {"recipe": recipe}))


def _judged(objective: Objective | None) -> dict[str, str]:
    """What images are measured by, by content: the files that options name may change."""
    if not isinstance(objective, Frechet):
        return {}
    scorer = objective.judge.scorer.identity
    return {"scorer": scorer, "reference": _digest(objective.reference)}


def _digest(statistics: Statistics) -> str:
    """Return 16 hex digits of a mean and a covariance, both to 6 decimals.

    Their last bits depend on the number of threads, which may differ when a search is resumed.
    """
    rounded = (np.round(values, 6) + 0.0 for values in (statistics.mean, statistics.cov))  # no −0
    return hashlib.sha256(b"".join(values.tobytes() for values in rounded)).hexdigest()[:16]


def _objective(request: Request, source, sd: models.Sampler, rows: Rows) -> Objective:
    if request.objective == "teacher":
        return Teacher(sd, rows)
    from eval import reference

    judge, problems = extractor_for(request.scorer, standin=source.standin, fid=True)
    size = models.image_size(sd)
    known = reference.load(request.reference, judge, size, source.standin)
    if known is None or "fid" in problems:
        reason = problems.get("fid", "no --reference images are given")
        raise ValueError(f"the objective fd is not to be had ({reason}); give --objective teacher")
    return Frechet(sd, rows, judge, known.statistics)


def _evolve(
    request: Request, sd: models.Sampler, objective: Objective, journal: Journal
) -> tuple[Preset, list[str]]:
    settings = Settings(
        request.budget, request.seed, request.screen, request.clip_weight, request.clip_floor
    )
    first = space.hand_made(request.sampler, sd.schedule, request.nfe)
    recipe, planner = partial(_recipe, request, sd), partial(_of_preset, sd)
    with Progress(request.budget, "search") as progress:
        evolution = Evolution(objective, journal, settings, recipe, planner, progress.advance)
        outcome = evolution.run(first, sd.schedule)
    return outcome.winner, _told(outcome)


def _told(outcome: Outcome) -> list[str]:
    lines = [f"{outcome.candidates} candidates; against the recipe, on equal images:"]
    for who, standings in (("winner", outcome.standings), ("best start", outcome.unevolved)):
        for i, s in enumerate(standings):
            block = f"round {i}" if i else "screening"
            lines.append(f"{who}, {block} [{s.count} images]: {_compared(s)}")
    return lines


def _compared(s: Standing) -> str:
    text = f"loss {s.found.loss:.3f} to {s.recipe.loss:.3f}"
    if s.found.clip is not None:
        text += f", CLIP {s.found.clip:.2f} to {s.recipe.clip:.2f}"
    return f"{text}, with the floor {s.gain:+.3f}"


def _fit(request: Request, sd: models.Sampler, rows: Rows) -> tuple[Preset, list[str]]:
    """Fit on each grid, and take what is nearest to the teacher on pairs kept apart: of every
    strength one in `HELD`. Where the exact weights are, they are taken."""
    if request.budget < LEAST_PAIRS:
        raise ValueError(
            f"budget {request.budget} is too small; a fit needs {LEAST_PAIRS} pairs or more"
        )
    drawn = rows.block(0, request.budget)
    place = {row: k // len(request.omegas) for k, row in enumerate(drawn)}
    apart, used = [], []
    with Progress(request.budget, "teacher") as progress:
        for pairs, own in (
            (apart, [row for row in drawn if place[row] % HELD == 0]),
            (used, [row for row in drawn if place[row] % HELD]),
        ):
            for batch in batches(own):
                pairs.append(teacher.teach(sd, batch))
                progress.advance(len(batch))
    best, lines = None, ["distance of final latents to the teacher's, kept pairs (fitted pairs):"]
    for grid in space.GRIDS:
        levels = teacher.snapped(sd, make_grid(grid, sd.schedule, request.nfe)[:-1])
        plain = Preset(request.sampler, tuple(space.Choice(level) for level in levels))
        preset = teacher.fit(sd, request.sampler, levels, used)
        exact, kept = (teacher.error(sd, one, apart) for one in (plain, preset))
        seen = teacher.error(sd, preset, used)
        lines.append(f"{grid}: exact weights {exact:.4f}, fitted {kept:.4f} ({seen:.4f})")
        for distance, candidate in ((exact, plain), (kept, preset)):
            if best is None or distance < best[0]:
                best = distance, candidate
    return best[1], lines
