"""Measure what checking, compressing and writing images costs a run beside its drawing.

    python benchmarks/writing.py
    python benchmarks/writing.py --seconds 0.4 --size 1024 --batches 20

The model is a function that waits, as a processor waits for its GPU, and returns smooth images with
a little noise. Batches are written on other threads while the next one is drawn, as a run does, and
on the drawing's own thread. The two take turns in one process; the best of each is reported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval import drawing
from eval.drawing import Drawing
from eval.records import Records
from eval.writer import Writer


class Waiting:
    """Draws a batch in a fixed time, without a processor."""

    def __init__(self, seconds: float, count: int, size: int):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        self.images = smooth * 0.98 + 0.02 * torch.rand(smooth.shape, generator=generator)
        self.latents, self.seconds = torch.randn(count, 4, size // 8, size // 8), seconds

    def draw(self, prompts: list[str], seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(self.seconds)
        return self.latents[: len(prompts)], self.images[: len(prompts)]


class InLine(Writer):
    """Does everything at once, on the thread that draws."""

    def put(self, work: Callable[[], None]) -> None:
        work()

    def each(self, work: Callable, items: list) -> None:
        for item in items:
            work(item)


def images_per_second(writer: type[Writer], waiting: Waiting, count: int, batches: int) -> float:
    size = waiting.images.shape[-1]
    arm = {"key": "ddim@w3", "sampler": "ddim", "scale": 3.0}
    config = {"model": "none", "nfe": 20, "size": [size, size], "batch": count, "arms": [arm]}
    config |= {"prompts": [f"prompt {i}" for i in range(batches)], "seeds": list(range(count))}
    drawing.Writer = writer
    with tempfile.TemporaryDirectory() as folder:
        drawn = Drawing(config, Path(folder), Records(Path(folder)))
        start = time.perf_counter()
        done = drawn.draw({"ddim@w3": waiting}, drawn.jobs(["ddim@w3"]), writer.__name__)
        return done / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.8, help="per batch (default 0.8)")
    parser.add_argument("--count", type=int, default=8, help="images in a batch (default 8)")
    parser.add_argument("--size", type=int, default=512, help="pixels (default 512)")
    parser.add_argument("--batches", type=int, default=10, help="(default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="(default 3)")
    args = parser.parse_args()
    waiting = Waiting(args.seconds, args.count, args.size)
    best = {InLine: 0.0, Writer: 0.0}
    for _ in range(args.repeats):
        for kind in best:
            speed = images_per_second(kind, waiting, args.count, args.batches)
            best[kind] = max(best[kind], speed)
    bound = args.count / args.seconds
    print(f"{args.size}×{args.size}, drawing alone {bound:.2f} images/s")
    for kind, speed in best.items():
        name = "beside the drawing" if kind is Writer else "in line"
        print(f"written {name}: {speed:.2f} images/s, {100 * speed / bound:.0f} %")


if __name__ == "__main__":
    main()
