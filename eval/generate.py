"""Draw prompts with one sampler: `python -m eval generate`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eval import models
from eval.arms import Arm, parse_arms
from eval.drawers import approximate
from eval.image_text import chunks, version
from eval.images import to_uint8, write_png
from eval.memory import is_out_of_memory
from eval.progress import Progress
from eval.targets import contact_sheet, targets

NEED_IMAGE = {"inversion": "invert", "edit": "edit"}  # part of a solver's name → its command


@dataclass(frozen=True)
class Request:
    """What to draw; see `python -m eval generate --help`. None takes the documented default."""

    model: str
    method: str  # a sampler with options, as an arm, or a solver of the model's `get_solver`
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path
    null_prompt: str = ""
    cfg_guidance: float | None = None  # the method's own units; CFG++'s above 2 is read as ω
    omega: float | None = None  # in CFG units
    nfe: int = 20
    options: tuple[str, ...] = ()  # "eta=0.5"
    grid: str | None = None
    batch: int | None = None
    approximate: str | None = None  # see pipelines/approximation.py
    checkpoint: Path | None = None  # a distilled UNet for the _lightning solvers
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Drawing:
    """What was written: one entry {"file", "prompt", "seed"} per image, and notes for stderr."""

    images: list[dict]
    sheet: Path | None
    notes: list[str]


@dataclass(frozen=True)
class _Method:
    """A method ready to draw: facts for the text chunks, (prompts, seeds) → latents and images."""

    facts: dict
    draw: Callable[[list[str], list[int]], tuple[torch.Tensor, torch.Tensor]]
    notes: tuple[str, ...] = ()


def generate(request: Request, load: Callable[..., models.Sampler] = models.load) -> Drawing:
    """Draw every prompt with every seed, write PNG files and, for several, a contact sheet.

    Pixels are round(255·x), the same for every image. Raises ValueError, before the model is loaded
    where possible, for what the caller can mend.
    """
    _check(request)
    jobs = [(i, p, s) for i, p in enumerate(request.prompts) for s in request.seeds]
    places = targets(request.out, [f"{i:03d}_{seed}" for i, _, seed in jobs])
    source = models.find(request.model)
    device = models.choose_device(request.device)
    dtype = models.choose_dtype(request.dtype, source, device)
    method = _prepare(request, load, source, device, dtype)

    pictures: list[np.ndarray] = []
    with Progress(len(jobs), "generate") as progress:
        for rows, pixels in _draw(jobs, request.batch or source.default_batch, method):
            for (_, prompt, seed), image in zip(rows, pixels, strict=True):
                facts = {"prompt": prompt, "seed": seed, **method.facts}
                facts["size"] = list(image.shape[1::-1])
                write_png(places.images[len(pictures)], image, chunks(facts))
                pictures.append(image)
            progress.advance(len(rows))
    if places.sheet:
        several = len(request.seeds) > 1 and len(request.prompts) > 1
        columns = len(request.seeds) if several else math.isqrt(len(jobs) - 1) + 1
        told = {"prompt": " | ".join(request.prompts), "seeds": list(request.seeds)}
        sheet = contact_sheet(pictures, columns)
        write_png(places.sheet, sheet, chunks({**told, **method.facts, "sheet": True}))
    images = [
        {"file": str(file), "prompt": prompt, "seed": seed}
        for file, (_, prompt, seed) in zip(places.images, jobs, strict=True)
    ]
    return Drawing(images, places.sheet, list(method.notes))


def _check(request: Request) -> None:
    from samplers.errors import finite

    for name in ("cfg_guidance", "omega"):
        if (value := getattr(request, name)) is not None:
            finite(name, value)
    for name, value in (("NFE", request.nfe), ("batch", request.batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be a whole number of at least 1")
    if bool(request.checkpoint) != request.method.endswith("_lightning"):
        raise ValueError(
            f"method {request.method!r} with checkpoint {request.checkpoint}: methods whose names "
            "end in _lightning, and only these, need --checkpoint with a distilled UNet"
        )
    for part, command in NEED_IMAGE.items():
        if part in request.method:
            raise ValueError(
                f"method {request.method!r} starts from an image; use: python -m eval {command}"
            )


def _prepare(request: Request, load: Callable, source, device: str, dtype: str) -> _Method:
    """Load the model, and compile the method's plan or take the solver of that name."""
    from samplers import available

    name = re.split(r"[\[@,~]", request.method)[0]
    known = {recipe.name: recipe for recipe in available()}
    if name in known:
        arm = _arm(request, {n: recipe.guidance for n, recipe in known.items()})
        model = load(source, request.nfe, device, dtype)
        method = _planned(request, model, arm, known[name].evaluations_per_step)
    else:
        model = load(source, request.nfe, device, dtype, name, request.checkpoint)
        method = _solved(request, model, name)
    card = model.card()
    common = {
        "null_prompt": request.null_prompt,
        "nfe": request.nfe,
        "model": source.label,
        "standin": source.standin,
        **models.fingerprint(source, card),
        "prediction_type": card.get("prediction_type"),
        "device": device.partition(":")[0],
        "dtype": dtype,
        "version": version(),
    }
    return _Method({**common, **method.facts}, method.draw, method.notes)


def _arm(request: Request, guidance: dict[str, str]) -> Arm:
    """Read method, options and approximation as an arm: NAME[eta=0.5,order=3]~cache[depth=1]."""
    text, _, near = request.method.partition("~")
    near = "~".join(part for part in (near, request.approximate) if part)
    if request.options:
        inner = [text[text.index("[") + 1 : -1]] if text.endswith("]") else []
        text = f"{text.partition('[')[0]}[{','.join([*inner, *request.options])}]"
    if "@" in request.method:
        raise ValueError(f"method {text!r}: state the strength by --cfg_guidance or --omega")
    arms = parse_arms(f"{text}~{near}" if near else text, (1.0,), guidance)
    if len(arms) > 1:
        raise ValueError(f"method {text!r} names {len(arms)}; give one, or use: python -m eval run")
    return arms[0]


def _planned(request: Request, model: models.Sampler, arm: Arm, per_step: int) -> _Method:
    from samplers import compile_plan
    from samplers.compile import stated_omega
    from samplers.registry import find

    strength, notes = {}, []
    if request.omega is not None:
        strength = {"omega": request.omega}
    elif request.cfg_guidance is not None:
        value = request.cfg_guidance
        strength = find(arm.sampler).read(value)
        if "omega" in strength:
            notes.append(f"cfg_guidance {value:g} is too large for CFG++'s lambda: read as omega")
    if arm.sampler == "ddim_cfg++":
        notes.append(
            "ddim_cfg++ is the first-order arm here, as in `eval run`; "
            'get_solver("ddim_cfg++") runs exp2m_cfg++'
        )
    options = dict(arm.options)
    if request.grid is not None:
        if "grid" in options:
            raise ValueError(
                f"--grid {request.grid} and {arm.label!r} both state the grid; state one"
            )
        options["grid"] = request.grid
    plan = compile_plan(arm.sampler, model.schedule, nfe=request.nfe, **strength, **options)
    facts = {
        "method": arm.sampler,
        "options": dict(arm.options),
        "grid": request.grid,
        "guidance": "CFG++ lambda" if arm.guidance == "cfg++" else "CFG omega",
        "scale": plan.scale,
        "omega": plan.omega,
        "steps": math.ceil(len(plan) / per_step),
    }
    stated = stated_omega(plan, model.schedule)
    told = f"scale {plan.scale:g}, omega {stated:.3g} (mean over the steps {plan.omega:.3g})"
    notes.append(f"{arm.label}: {len(plan)} evaluations, {told}")

    drawer = partial(model.generate, plan)
    if arm.approximate:
        ready = approximate(model, plan, arm.approximate)
        facts["approximation"], drawer = ready.describe(), ready.generate
        notes.append(f"approximated: {ready.cost.whole} of {len(plan)} evaluations run all of it")

    def draw(prompts: list[str], seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return drawer(prompts, seeds, request.null_prompt)

    return _Method(facts, draw, tuple(notes))


def _solved(request: Request, solver: models.Sampler, name: str) -> _Method:
    """A solver that is no named plan: its own `sample`, with its own meaning of cfg_guidance."""
    if request.omega is not None or request.options or request.grid or request.approximate:
        raise ValueError(
            f"method {name!r} is a solver without a plan of that name; it takes --cfg_guidance, "
            "and no --omega, --option, --grid or --approximate"
        )
    strength = {} if request.cfg_guidance is None else {"cfg_guidance": request.cfg_guidance}

    def draw(prompts: list[str], seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [request.null_prompt, prompts]
        images = models.ask(solver, texts, seeds=seeds, **strength)
        return images, images

    distilled = request.checkpoint.name if request.checkpoint else None
    facts = {"method": name, "scale": request.cfg_guidance, "checkpoint": distilled}
    return _Method(facts, draw)


def _draw(jobs: list, batch: int, method: _Method) -> Iterator[tuple[list, np.ndarray]]:
    """Yield the jobs in batches with their pixels (N, H, W, 3)."""
    for start in range(0, len(jobs), batch):
        rows = jobs[start : start + batch]
        try:
            latents, images = method.draw([p for _, p, _ in rows], [s for _, _, s in rows])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                f"{len(rows)} images at once do not fit into memory; give a smaller --batch"
            ) from None
        for (_, prompt, seed), z, x in zip(rows, latents, images, strict=True):
            if not (torch.isfinite(z).all() and torch.isfinite(x).all()):
                raise ValueError(
                    f"prompt {prompt!r}, seed {seed}: the image has NaN or infinite values; "
                    "lower the strength, or give --dtype float32"
                )
        yield rows, to_uint8(images)
