"""Measure whole images, from prompt to pixels, against diffusers' pipeline and a loop of one image.

    python -m benchmarks.end_to_end
    python -m benchmarks.end_to_end --size sd15,sdxl --batches 1,8        # on a GPU: random weights
    python -m benchmarks.end_to_end --size standin-sdxl --batches 1,10 --repeats 5 --no-compile
    python -m benchmarks.end_to_end --page                   # the page again, from files there are

Same networks, same grid, 2nd-order multistep, ω = 7.5. The ways take turns, so that what else the
machine does meets them alike; a ratio is the median over these pairs, beside its range. On a CPU
one thread's processor time is counted, which other processes do not lengthen; on a GPU, wall time
between synchronisations. Writes docs/results/speed/end_to_end/SIZE-DEVICE.json and, from all such
files, end_to_end.md and end_to_end.png beside that folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.clock import clock, machine
from benchmarks.end_to_end_models import RANDOM, load, one, ours
from benchmarks.end_to_end_page import write_page
from benchmarks.sizes import PeakBytes
from benchmarks.step_overhead import installed, processor
from eval.commands import Parser, natural, naturals, one_line_errors
from eval.models import choose_device
from pipelines.latent_model import LatentModel
from pipelines.loading import default_dtype
from samplers import compile_plan, generators, sample, standard_normal

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results" / "speed"
SIZES = ("standin-sd15", "standin-sd20", "standin-sdxl", *RANDOM)
FIRST_SEED = 100


def timed(device: torch.device, run: Callable[[], object]) -> float:
    start = clock(device)
    run()
    return clock(device) - start


class Bench:
    """One size on one device: its ways of drawing, and what is measured of them."""

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype, nfe: int):
        self.model, stock = load(size, device, dtype)
        self.device, self.nfe = device, nfe
        self.ways = {"stock": stock, "one": one(self.model), "ours": ours(self.model)}
        self.prompts = (ROOT / "prompts" / "scenes_dev40.txt").read_text().splitlines()

    def draw(self, way: str, batch: int, nfe: int | None = None) -> torch.Tensor:
        prompts = [self.prompts[i % len(self.prompts)] for i in range(batch)]
        seeds = range(FIRST_SEED, FIRST_SEED + batch)
        return self.ways[way](prompts, seeds, nfe or self.nfe)

    def compare(self, batches: list[int], repeats: int) -> dict[str, list[float]]:
        """Return seconds per image of "WAY BATCH", one number per repeat; the ways take turns."""
        turns = [("one", 1), *((way, b) for b in batches for way in ("stock", "ours"))]
        seconds: dict[str, list[float]] = {f"{way} {batch}": [] for way, batch in turns}
        for repeat in range(-1, repeats):  # once to warm up
            for way, batch in turns:
                print(f"repeat {repeat + 1} of {repeats}: {way}, {batch}", file=sys.stderr)
                taken = timed(self.device, lambda w=way, b=batch: self.draw(w, b)) / batch
                if repeat >= 0:
                    seconds[f"{way} {batch}"].append(taken)
        return seconds

    def compiled(self, batches: list[int], repeats: int) -> dict:
        """Compile our UNet (a copy: the stock pipeline's may be the same), then take turns again.

        Returns {"seconds": {"WAY BATCH": …}, "first": wall seconds of the first call by batch}.
        """
        self.model.unet = copy.deepcopy(self.model.unet)
        self.model.compile_unet()
        seconds: dict[str, list[float]] = {}
        first = {}
        for batch in batches:
            print(f"compiling, {batch}", file=sys.stderr)
            start = time.perf_counter()
            self.draw("ours", batch, 1)
            first[str(batch)] = time.perf_counter() - start
            self.draw("ours", batch)
            for _ in range(repeats):
                for name, way in (("stock", "stock"), ("compiled", "ours")):
                    taken = timed(self.device, lambda w=way, b=batch: self.draw(w, b)) / batch
                    seconds.setdefault(f"{name} {batch}", []).append(taken)
        return {"seconds": seconds, "first": first}

    def difference(self) -> float:
        """Return the mean difference of a pixel from the stock pipeline's, of 255."""
        return 255 * float((self.draw("ours", 4) - self.draw("stock", 4)).abs().mean())

    def loop_share(self, batch: int, ours_seconds: float) -> float:
        """Return the loop's share of the whole: its time with a network that costs nothing."""
        z = standard_normal(
            (batch, *self.model.latent_shape), generators(range(batch)), self.model.device
        )
        plan, pair = compile_plan("dpm2m", self.model.schedule, self.nfe), (z, -z)
        times = [timed(self.device, lambda: sample(lambda z, t: pair, z, plan)) for _ in range(9)]
        return min(times) / batch / ours_seconds

    def peak(self, batch: int) -> float:
        """Return GiB at the peak of a call of ours: all on a GPU; on a CPU, what tensors hold."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.draw("ours", batch, 2)
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        with PeakBytes(_networks(self.model)) as memory:
            self.draw("ours", batch, 2)
        return memory.peak / 2**30


def _networks(model: LatentModel) -> torch.nn.Module:
    parts = [v for v in vars(model).values() if isinstance(v, torch.nn.Module)]
    return torch.nn.ModuleList(parts)


def measure(size: str, args: argparse.Namespace, device: torch.device) -> dict:
    """Return the report of one size, as it is written to its JSON file."""
    dtype = getattr(torch, args.dtype) if args.dtype else default_dtype(device)
    bench = Bench(size, device, dtype, args.nfe)
    seconds = bench.compare(args.batches, args.repeats)
    best = args.batches[-1]
    report = {
        "size": size,
        "random_weights": size in RANDOM,
        "device": machine(device, processor()),
        "clock": "one thread, processor time" if device.type == "cpu" else "wall time",
        "python": platform.python_version(),
        **{name: installed(name) for name in ("torch", "diffusers")},
        "dtype": str(dtype).removeprefix("torch."),
        "nfe": args.nfe,
        "batches": args.batches,
        "repeats": args.repeats,
        "pixels": bench.model.latent_shape[1] * bench.model.vae_scale_factor,
        "seconds": seconds,
        "difference": None if size in RANDOM else bench.difference(),
        "by_nfe": {
            str(n): timed(device, lambda n=n: bench.draw("ours", best, n)) / best
            for n in (5, 10, 20, 40)
        },
        "peak_gib": {str(b): bench.peak(b) for b in args.batches},
        "loop_share": {
            str(b): bench.loop_share(b, min(seconds[f"ours {b}"])) for b in args.batches
        },
    }
    if args.compile:
        report["compiled"] = bench.compiled(args.batches, args.repeats)
    return report


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="standin-sd15", help=f"of {', '.join(SIZES)}; commas")
    parser.add_argument("--batches", default=[1, 10, 50], metavar="N,N", type=naturals)
    parser.add_argument("--nfe", type=natural, default=20)
    parser.add_argument("--repeats", type=natural, default=5, help="turns of every way (default 5)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--page", action="store_true", help="only write page and figure")
    parser.add_argument("--out", type=Path, default=FOLDER, help="default docs/results/speed")
    args = parser.parse_args()
    sizes = [] if args.page else args.size.split(",")
    for size in sizes:
        if size not in SIZES:
            parser.error(f"--size {size!r} is unknown; known: {', '.join(SIZES)}")
    choose_device(args.device)
    if args.device == "cpu":
        torch.set_num_threads(1)
    folder = args.out / "end_to_end"
    folder.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        report = measure(size, args, torch.device(args.device))
        path = folder / f"{size}-{torch.device(args.device).type}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(write_page(args.out))


if __name__ == "__main__":
    main()
