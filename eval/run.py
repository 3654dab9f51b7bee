"""Draw every prompt with every seed and arm into a run folder, resumably.

All arms see the same start noise for a (prompt, seed), and the batches are cut from a fixed list,
as a function of the config alone. A batch is skipped only if all of its images are there and
valid; otherwise the whole batch is drawn again. A killed run that is started again therefore
leaves the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eval import models
from eval.arms import parse_arms
from eval.drawers import Drawer, drawer
from eval.folder import Records, open_folder, record_environment
from eval.images import is_flat, is_valid_png, to_uint8, write_png
from eval.progress import Progress
from eval.prompts import read_prompts

NOT_FINITE = "NaN or infinite values, no image written"
FLAT = "constant image"


@dataclass(frozen=True)
class Request:
    """What to draw; see `python -m eval run --help`. `None` takes the documented default."""

    model: str
    arms: str
    scales: tuple[float, ...]  # in CFG units
    prompts: Path
    seeds: tuple[int, ...]
    out: Path
    nfe: int = 20
    batch: int | None = None
    limit: int | None = None
    device: str | None = None
    dtype: str | None = None
    grid: str | None = None  # one grid for all arms; else each sampler's own


@dataclass(frozen=True)
class Row:
    """One image of every arm: the `index`-th prompt with one seed."""

    index: int
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.index:03d}_{self.seed}.png"


@dataclass(frozen=True)
class Outcome:
    """What a run did. `invalid` holds one line per arm with images that cannot be scored."""

    folder: Path
    drawn: int
    kept: int
    invalid: list[str]
    notes: list[str]


def run(request: Request, load: Callable[..., models.Sampler] = models.load) -> Outcome:
    """Draw what is missing in the request's folder.

    load    loads a model, see `eval.models.load`; tests give a double
    Raises ValueError, before anything is drawn where possible, for what the caller can mend.
    """
    from samplers import available

    if request.nfe < 1 or (request.batch is not None and request.batch < 1):
        raise ValueError(f"nfe {request.nfe} and batch {request.batch} must be at least 1")
    prompts = read_prompts(request.prompts, request.limit)
    guidance = {recipe.name: recipe.guidance for recipe in available()}
    arms = parse_arms(request.arms, request.scales, guidance)
    source = models.find(request.model)
    device = models.choose_device(request.device)
    dtype = models.choose_dtype(request.dtype, source, device)
    sd = load(source, request.nfe, device, dtype)
    drawers = [drawer(arm, sd, request.nfe, request.grid) for arm in arms]
    card = sd.card()
    config = {
        "model": source.label,
        "standin": source.standin,
        **models.fingerprint(source, card),
        "prediction_type": card.get("prediction_type"),
        "dtype": dtype,
        "size": list(models.image_size(sd)),
        "nfe": request.nfe,
        "grid": request.grid,
        "batch": request.batch or source.default_batch,
        "seeds": list(request.seeds),
        "null_prompt": "",
        "prompts_file": request.prompts.name,
        "prompts_sha256": hashlib.sha256(request.prompts.read_bytes()).hexdigest(),
        "prompts": prompts,
        "arms": [
            {
                "key": arm.key,
                "arm": arm.label,
                "sampler": "region" if arm.region else arm.sampler,
                "options": dict(arm.options),
                "guidance": arm.guidance,
                **drawer.describe(),
            }
            for arm, drawer in zip(arms, drawers, strict=True)
        ],
    }
    if not (request.out / "config.json").exists():  # a mistake shows before the other arms' work
        regions = {arm.region: d for arm, d in zip(arms, drawers, strict=True) if arm.region}
        for region in regions.values():
            region.draw(prompts[:1], request.seeds[:1])
    open_folder(request.out, config)
    note = record_environment(request.out, device)
    drawing = _Drawing(config, request.out)
    rows = [Row(i, p, s) for i, p in enumerate(prompts) for s in request.seeds]
    drawn = drawing.draw_all(dict(zip((a.key for a in arms), drawers, strict=True)), rows)
    kept = len(arms) * len(rows) - drawn
    return Outcome(request.out, drawn, kept, drawing.records.summary(), [note] if note else [])


class _Drawing:
    """The drawing of one run: folder and records."""

    def __init__(self, config: dict, folder: Path):
        self.config, self.folder = config, folder
        self.records = Records(folder)
        self._arms = {arm["key"]: arm for arm in config["arms"]}

    def draw_all(self, drawers: dict[str, Drawer], rows: Sequence[Row]) -> int:
        """Draw all batches that are not complete; return the number of images drawn."""
        size = self.config["batch"]
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        jobs = [(key, batch) for key in drawers for batch in batches]
        missing = [(key, batch) for key, batch in jobs if not self._complete(key, batch)]
        drawn = sum(len(batch) for _, batch in missing)
        total = len(drawers) * len(rows)
        with Progress(total, "run", done=total - drawn) as progress:
            for key, batch in missing:
                self._draw(key, drawers[key], batch)
                progress.advance(len(batch), key)
        return drawn

    def _path(self, key: str, row: Row) -> Path:
        return self.folder / "images" / key / row.file

    def _texts(self, key: str, row: Row) -> dict[str, str]:
        arm = self._arms[key]
        return {
            "prompt": row.prompt,
            "seed": str(row.seed),
            "arm": key,
            "sampler": arm["sampler"],
            "nfe": str(self.config["nfe"]),
            "scale": repr(arm["scale"]),
            "model": self.config["model"],
        }

    def _complete(self, key: str, batch: Sequence[Row]) -> bool:
        width_height = tuple(self.config["size"])
        return all(
            self.records.reason(key, row.file) == NOT_FINITE
            or is_valid_png(self._path(key, row), width_height, self._texts(key, row))
            for row in batch
        )

    def _draw(self, key: str, drawer: Drawer, batch: Sequence[Row]) -> None:
        """Draw one batch of an arm, check it and write it."""
        start = time.perf_counter()
        prompts, seeds = [row.prompt for row in batch], [row.seed for row in batch]
        try:
            latents, images = drawer.draw(prompts, seeds)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"{len(batch)} images at once do not fit into memory; give a smaller --batch"
            ) from None
        seconds = time.perf_counter() - start
        finite = [
            bool(torch.isfinite(z).all() and torch.isfinite(x).all())
            for z, x in zip(latents, images, strict=True)
        ]
        pixels = to_uint8(images)
        reasons = {}
        for row, ok, image in zip(batch, finite, pixels, strict=True):
            if not ok:
                reasons[row.file] = NOT_FINITE
            elif is_flat(image):
                reasons[row.file] = FLAT
        # Reasons first: were images written first, a kill in between would leave a batch that
        # looks complete and has lost its reasons.
        self.records.replace(key, [row.file for row in batch], reasons)
        for row, ok, image in zip(batch, finite, pixels, strict=True):
            if ok:
                write_png(self._path(key, row), image, self._texts(key, row))
            else:
                self._path(key, row).unlink(missing_ok=True)
        self.records.time(key, len(batch), seconds)
