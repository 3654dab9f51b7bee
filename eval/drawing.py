"""Draw batches of images into a run folder, check them and write them.

The batches are cut from a fixed list, as a function of the configuration alone. A batch is skipped
only if all of its images are there and valid; otherwise the whole batch is drawn again. A killed
run that is started again therefore leaves the same bytes as one that was never interrupted, and
so does one that several processes share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eval.checks import UNWRITTEN, Batch, Row, check
from eval.drawers import Drawer
from eval.images import MEASURED, is_valid_png, write_png
from eval.memory import Portions
from eval.progress import Progress
from eval.records import Records
from eval.writer import Writer


@dataclass(frozen=True)
class Job:
    """The `number`-th batch of an arm."""

    key: str
    number: int
    rows: tuple[Row, ...]


class Drawing:
    """The drawing of one process.

    config   of the whole folder
    records  of this process
    slowest  seconds of its slowest batch so far
    """

    def __init__(self, config: dict, folder: Path, records: Records):
        self.config, self.folder, self.records = config, folder, records
        self.slowest = 0.0
        self._arms = {arm["key"]: arm for arm in config["arms"]}
        rows = [Row(i, p, s) for i, p in enumerate(config["prompts"]) for s in config["seeds"]]
        size = config["batch"]
        self.batches = [tuple(rows[i : i + size]) for i in range(0, len(rows), size)]

    def jobs(self, keys: Sequence[str]) -> list[Job]:
        """Return all batches of these arms, whether drawn or not."""
        return [Job(key, n, batch) for key in keys for n, batch in enumerate(self.batches)]

    def complete(self, job: Job) -> bool:
        """Tell whether all images of a batch are there and valid, or known to be impossible."""
        try:
            reasons = self.records.reasons(job.key, job.number)
        except ValueError:  # damaged: drawing the batch again finds them again
            return False
        width_height = tuple(self.config["size"])
        return all(
            reasons.get(row.file, "").endswith(UNWRITTEN)
            or is_valid_png(self._path(job.key, row), width_height, self._texts(job.key, row))
            for row in job.rows
        )

    def draw(self, drawers: Mapping[str, Drawer], jobs: Sequence[Job], label: str) -> int:
        """Draw all batches that are not complete; return the number of images drawn."""
        missing = [job for job in jobs if not self.complete(job)]
        total, due = (sum(len(job.rows) for job in found) for found in (jobs, missing))
        with Progress(total, label, done=total - due) as progress, Writer() as writer:
            portions = Portions(self.config["batch"], progress.say)
            for job in missing:
                self._draw(job, drawers[job.key], portions, writer)
                progress.advance(len(job.rows), job.key)
        return due

    def _draw(self, job: Job, drawer: Drawer, portions: Portions, writer: Writer) -> None:
        cuda = torch.cuda.is_initialized()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        prompts, noise = [row.prompt for row in job.rows], [row.noise for row in job.rows]
        latents, images = portions.draw(drawer, prompts, noise)
        seconds = time.perf_counter() - start
        self.slowest = max(self.slowest, seconds)
        peak = torch.cuda.max_memory_allocated() if cuda else None
        at_once = min(portions.at_once, len(job.rows))

        def finish() -> None:
            size = tuple(self.config["size"])
            self._write(job, check(job.rows, latents, images, size), writer)
            self.records.time(job.key, len(job.rows), seconds, at_once, peak)

        writer.put(finish)

    def _write(self, job: Job, batch: Batch, writer: Writer) -> None:
        # Reasons first: were images written first, a kill in between would leave a batch that
        # looks complete and has lost its reasons.
        self.records.replace(job.key, job.number, batch.reasons)
        writable = batch.writable()
        for row in {*job.rows} - {row for row, _, _ in writable}:
            self._path(job.key, row).unlink(missing_ok=True)

        def write(image: tuple[Row, np.ndarray, float]) -> None:
            row, pixels, spread = image
            texts = self._texts(job.key, row) | {MEASURED: f"{spread:.4f}"}
            write_png(self._path(job.key, row), pixels, texts)

        writer.each(write, writable)

    def _path(self, key: str, row: Row) -> Path:
        return self.folder / "images" / key / row.file

    def _texts(self, key: str, row: Row) -> dict[str, str]:
        arm = self._arms[key]
        return {
            "prompt": row.prompt,
            "seed": str(row.seed),
            "noise": str(row.noise),
            "arm": key,
            "sampler": arm["sampler"],
            "nfe": str(self.config["nfe"]),
            "scale": repr(arm["scale"]),
            "model": self.config["model"],
        }
