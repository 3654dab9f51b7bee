"""Measure approximated UNets against the exact run: time, and what happens to the images.

    python -m benchmarks.approximate --model standin-sd15
    python -m benchmarks.approximate --model standin-sdxl --sweep

The first writes the reported rows, on held-out prompts; --sweep tries many settings on the
development prompts, to choose from. Both leave a JSON file in docs/results/speed/approximate/ and
write docs/results/speed/approximate.md and .png anew from all files there.

Every way of drawing takes turns with the exact one, batch by batch, in one process; ratios are the
median over these pairs and cover text encoder, loop and VAE. On a CPU one thread's processor time
is counted, which other processes do not lengthen; on a GPU, wall time.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.approximate_page import write_page
from benchmarks.approximate_scores import Scores, differences
from benchmarks.clock import clock, machine
from benchmarks.step_overhead import installed, processor
from eval import models
from eval.commands import Parser, one_line_errors, read_by
from eval.images import to_uint8
from eval.progress import Progress
from eval.prompts import noise_seed, parse_seeds, read_prompts
from pipelines.approximate import Cost, approximated
from pipelines.approximation import parse
from samplers import compile_plan

ROOT = Path(__file__).resolve().parents[1]
METHODS = "dpm2m"
REPORT = (
    "propagate[keys=uniform:2]",
    "cache[keys=uniform:2,depth=1]",
    "cache[keys=uniform:2,depth=1]~gate[after=0.6]",
    "exact:14",
)
SWEEP = (
    *("exact:14", "exact:10", "propagate[keys=uniform:2]", "propagate[keys=uniform:2,noise=0.003]"),
    *("propagate[keys=uniform:3]", "propagate[keys=auto:10]", "propagate[keys=auto:7]"),
    *("cache[keys=uniform:2,depth=1]", "cache[keys=uniform:2,depth=2]"),
    *("cache[keys=uniform:3,depth=1]", "gate[after=0.6]", "gate[after=0.4]"),
    *("gate[after=0.6,delta=drop]", "cache[keys=uniform:2,depth=1]~gate[after=0.6]"),
)


@dataclass(frozen=True)
class Way:
    """One way of drawing with one sampler: the exact one, an approximation, or fewer steps."""

    name: str
    cost: Cost
    keys: tuple[int, ...]
    draw: Callable[[list[str], list[int]], torch.Tensor]


def check(names: Sequence[str], nfe: int) -> None:
    """Raise ValueError for a way that cannot be read, is the base itself, or is named twice."""
    known: dict[str, str] = {}
    for name in names:
        number = name.removeprefix("exact:")
        if number == name:
            canonical = str(parse(name))
        elif not number.isdecimal() or int(number) < 1:
            raise ValueError(f"--ways {name}: exact: takes a number of evaluations, as in exact:14")
        elif int(number) == nfe:
            raise ValueError(f"--ways {name} is the exact run at --nfe {nfe}; give another number")
        else:
            canonical = f"exact:{int(number)}"
        if canonical in known:
            raise ValueError(
                f"--ways: {name} and {known[canonical]} are the same, {canonical}; leave one out"
            )
        known[canonical] = name


def ways(model: object, method: str, names: Sequence[str], nfe: int, omega: float) -> list[Way]:
    """Return the exact way and those of `names` that fit the sampler; others are left out."""

    def exact(steps: int) -> Way:
        plan = compile_plan(method, model.schedule, nfe=steps, omega=omega)
        name = "exact" if steps == nfe else f"exact:{steps}"
        cost = Cost(steps, steps, 0, 2 * steps)
        return Way(name, cost, tuple(range(steps)), lambda p, s: model.generate(plan, p, s)[1])

    def near(name: str) -> Way | None:
        plan = compile_plan(method, model.schedule, nfe=nfe, omega=omega)
        approximation = parse(name)
        try:
            ready = approximated(model, plan, approximation)
        except ValueError as error:
            print(f"{method}: left out: {error}", file=sys.stderr)
            return None
        return Way(name, ready.cost, ready.keys, lambda p, s: ready.generate(p, s)[1])

    found = [exact(nfe)]
    for name in names:
        fewer = name.removeprefix("exact:")
        found.append(exact(int(fewer)) if fewer != name else near(name))
    return [way for way in found if way is not None]


def timed(device: torch.device, run: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Return the seconds that a call took by `benchmarks.clock`, and its result."""
    start = clock(device)
    out = run()
    return clock(device) - start, out


def timed_singly(device: torch.device, found: list[Way], prompts: list[str], repeats: int) -> dict:
    """Return seconds per image by way, one image at a time, in pairs with the exact way."""
    pairs: dict[str, list[tuple[float, float]]] = {way.name: [] for way in found[1:]}
    exact, job = found[0], (prompts[:1], [0])
    for repeat in range(repeats + 1):  # one to warm up
        for way in found[1:]:
            order = (exact, way) if repeat % 2 else (way, exact)
            taken = {w.name: timed(device, lambda w=w: w.draw(*job))[0] for w in order}
            if repeat:
                pairs[way.name].append((taken["exact"], taken[way.name]))
    return {name: summary(rows) for name, rows in pairs.items()}


def summary(pairs: list[tuple[float, float]]) -> dict:
    """Summarise (exact, way) seconds per image: medians, the median ratio, the ratios' range."""
    ratios = [a / b for a, b in pairs]
    return {
        "exact_s": statistics.median(a for a, _ in pairs),
        "s": statistics.median(b for _, b in pairs),
        "speedup": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "pairs": len(pairs),
    }


def measure(model: object, options: argparse.Namespace, scores: Scores) -> list[dict]:
    """Draw and score every way with every method; return one row per way."""
    prompts, seeds = scores.prompts, options.seeds
    jobs = [(p, s) for p in range(len(prompts)) for s in seeds]
    batches = [jobs[i : i + options.batch] for i in range(0, len(jobs), options.batch)]
    rows = []
    for method in options.methods.split(","):
        found = ways(model, method, options.ways, options.nfe, options.omega)
        singly = timed_singly(model.device, found, prompts, options.single)
        pictures: dict[str, list[np.ndarray]] = {way.name: [] for way in found}
        taken: dict[str, list[float]] = {way.name: [] for way in found}
        with Progress(len(found) * len(jobs), method) as progress:
            for turn, batch in enumerate(batches):
                shift = turn % len(found)
                for way in found[shift:] + found[:shift]:
                    texts = [prompts[p] for p, _ in batch]
                    chosen = [noise_seed(prompts[p], s) for p, s in batch]
                    seconds, images = timed(
                        model.device, lambda w=way, t=texts, c=chosen: w.draw(t, c)
                    )
                    taken[way.name].append(seconds / len(batch))
                    pictures[way.name].append(to_uint8(images))
                    progress.advance(len(batch), way.name)
        owners = [p for p, _ in jobs]
        measured = {n: scores.measure(np.concatenate(x), owners) for n, x in pictures.items()}
        for way in found:
            row = {"method": method, "way": way.name, "keys": list(way.keys), **asdict(way.cost)}
            row |= measured[way.name].points
            if way is not found[0]:
                pairs = list(zip(taken["exact"], taken[way.name], strict=True))
                row["batched"], row["single"] = summary(pairs), singly[way.name]
            rows.append(row)
        found_differences = differences(measured, "exact")
        for row in rows[-len(found) :]:
            row |= {"against": found_differences.get(row["way"], {})}
    return rows


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    place = words.index("--out") if "--out" in words else len(words)
    options.words = shlex.join(words[:place] + words[place + 2 :])  # without the folder
    _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as for python -m eval run")
    parser.add_argument("--sweep", action="store_true", help="many settings, development prompts")
    parser.add_argument("--ways", nargs="+", metavar="SPEC", help="approximations, or exact:N")
    parser.add_argument("--methods", default=METHODS, help=f"default {METHODS}")
    parser.add_argument("--omega", type=float, default=2.5, help="CFG units (default 2.5)")
    parser.add_argument("--nfe", type=int, default=20)
    parser.add_argument(
        "--prompts", type=Path, help="default: scenes100, with --sweep scenes_dev40"
    )
    parser.add_argument(
        "--seeds", type=read_by(parse_seeds), help="default 0-1, with --sweep 100-101"
    )
    parser.add_argument("--batch", type=int, default=50, help="images at once (default 50)")
    parser.add_argument("--single", type=int, default=10, help="pairs at batch 1 (default 10)")
    parser.add_argument("--reference", help="as for python -m eval score; needed for real models")
    parser.add_argument("--device", help="default: cuda, else mps, else cpu")
    parser.add_argument("--dtype", help="float32, float16 or bfloat16 (default by device)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "speed")
    return parser


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    kind = "sweep" if options.sweep else "report"
    usual = [way for way in (SWEEP if options.sweep else REPORT) if way != f"exact:{options.nfe}"]
    options.ways = options.ways or usual
    options.seeds = options.seeds or parse_seeds("100-101" if options.sweep else "0-1")
    file = "scenes_dev40.txt" if options.sweep else "scenes100.txt"
    options.prompts = options.prompts or ROOT / "prompts" / file
    if min(options.nfe, options.batch, options.single) < 1:
        raise ValueError("--nfe, --batch and --single must be at least 1")
    check(options.ways, options.nfe)
    source = models.find(options.model)
    device = models.choose_device(options.device)
    dtype = models.choose_dtype(options.dtype, source, device)
    model = models.load(source, options.nfe, device, dtype)
    prompts = read_prompts(options.prompts)
    scores = Scores(prompts, source.standin, options.reference, models.image_size(model))
    rows = measure(model, options, scores)
    place = torch.device(device)
    on_cpu = place.type == "cpu"
    result = {
        "kind": kind,
        "command": f"python -m benchmarks.approximate {options.words}",
        "model": source.label,
        "standin": source.standin,
        "stamp": f"stand-in {source.label}: not SD numbers" if source.standin else source.label,
        "machine": machine(place, processor()) + (", one thread" if on_cpu else ""),
        "clock": "processor time" if on_cpu else "wall time",
        **{name: installed(name) for name in ("torch", "diffusers")},
        "python": platform.python_version(),
        **{k: getattr(options, k) for k in ("omega", "nfe", "batch", "single")},
        "dtype": dtype,
        "prompts": options.prompts.name,
        "prompt_count": len(prompts),
        "seeds": options.seeds,
        "images": len(prompts) * len(options.seeds),
        "fid_floor": scores.floor(len(prompts) * len(options.seeds)),
        "rows": rows,
    }
    folder = options.out / "approximate"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    chosen = "" if options.methods == METHODS else f"-{options.methods.replace(',', '-')}"
    file = folder / f"{source.label}-{kind}{chosen}.json"
    file.write_text(text + "\n", encoding="utf-8")
    print(write_page(options.out))


if __name__ == "__main__":
    main()
