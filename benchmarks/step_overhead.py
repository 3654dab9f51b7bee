"""Measure what a sampling loop costs per step beside the network.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --repeats 40 --json overhead.json

The network is a function that returns two tensors made beforehand, so what remains is the loop:
preparing the input, combining the two predictions by classifier-free guidance, and the sampler's
update (20 evaluations, float32, one 4×64×64 latent, one CPU thread). Choosing timesteps and
compiling the plan are left out, on both sides. The loops take turns in one process, and of a turn's
five runs the fastest counts. Reported are the fastest turn and the median, per evaluation, in CPU
time, which other processes do not lengthen, and the ratio to diffusers' DPMSolverMultistep as the
median over the turns with the range of their middle half. Samplers that add noise draw as many
random numbers as a latent holds at every step; a row says what that alone takes.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.commands import Parser
from samplers import NoiseSchedule, compile_plan, sample

NFE, OMEGA = 20, 7.5
RUNS = 5  # of a loop in its turn, of which the fastest counts: the others find cold caches
OURS = ("ddim", "dpm2m", "exp2m_cfg++", "dpm++_2m_cfg++")
BASE = "diffusers DPMSolverMultistep"
SDE = "diffusers DPMSolverMultistep, SDE"
NOISE = "torch.randn alone"
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
Pair = tuple[torch.Tensor, torch.Tensor]
Loop = Callable[[], Callable[[], object]]  # prepares a run, untimed, and returns it


def ours(name: str, schedule: NoiseSchedule, z: torch.Tensor, pair: Pair) -> Loop:
    plan = compile_plan(name, schedule, NFE)
    return lambda: lambda: sample(lambda z, t: pair, z, plan)


def diffusers(scheduler, z: torch.Tensor, pair: Pair) -> Loop:
    """The lines of StableDiffusionPipeline's loop that are not the network."""

    def run(scheduler) -> torch.Tensor:
        x = z * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            uncond, cond = pair
            eps = uncond + OMEGA * (cond - uncond)
            x = scheduler.step(eps, t, x, return_dict=False)[0]
        return x

    def fresh() -> Callable[[], object]:
        own = copy.deepcopy(scheduler)  # a scheduler remembers its last run
        own.set_timesteps(NFE)
        return partial(run, own)

    return fresh


def noise(z: torch.Tensor) -> Loop:
    def run() -> None:
        for _ in range(NFE - 1):  # the last step, to σ = 0, takes none
            torch.randn(z.shape)

    return lambda: run


def k_diffusion(schedule: NoiseSchedule, z: torch.Tensor, pair: Pair) -> Loop | None:
    """k-diffusion's `sample_dpmpp_2m` with a denoiser as thin as can be; None if not installed."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        return None
    package = types.ModuleType("k_diffusion")  # its __init__ imports training code and CLIP
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    try:
        from k_diffusion.sampling import sample_dpmpp_2m
    except ImportError:
        return None
    sigmas = torch.tensor([row.sigma for row in compile_plan("dpm2m", schedule, NFE)] + [0.0])

    def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        uncond, cond = pair
        return x - sigma.reshape(-1, 1, 1, 1) * (uncond + OMEGA * (cond - uncond))

    return lambda: lambda: sample_dpmpp_2m(denoised, z * sigmas[0], sigmas, disable=True)


def measure(loops: dict[str, Loop], repeats: int) -> dict[str, dict]:
    """Return the fastest and the median time per evaluation of each loop, in microseconds, and the
    lower quartile, median and upper quartile of its ratio to BASE over the turns."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    with torch.no_grad():
        for repeat in range(repeats + 3):  # three to warm up
            for name, loop in loops.items():
                taken = []
                for run in [loop() for _ in range(RUNS)]:
                    start = time.process_time()
                    run()
                    taken.append((time.process_time() - start) / NFE * 1e6)
                if repeat >= 3:
                    times[name].append(min(taken))
    found = {}
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, times[BASE], strict=True)]
        found[name] = {
            "min_us": min(taken),
            "median_us": statistics.median(taken),
            "ratio": statistics.quantiles(ratios, n=4) if repeats > 1 else ratios * 3,
        }
    return found


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def markdown(report: dict) -> str:
    machine = report["machine"]
    lines = [
        f"{machine['processor']}, one thread, Python {machine['python']}, "
        f"torch {machine['torch']}, diffusers {machine['diffusers']}, "
        f"k-diffusion {machine['k-diffusion']}; {report['repeats']} turns of {RUNS} runs of {NFE} "
        "evaluations",
        "",
        f"| loop | fastest, µs/evaluation | median, µs/evaluation | of {BASE} |",
        "|---|---:|---:|---:|",
    ]
    for name, row in report["loops"].items():
        low, middle, high = row["ratio"]
        cells = (
            f"{row['min_us']:.1f} | {row['median_us']:.1f} | {middle:.2f} [{low:.2f}, {high:.2f}]"
        )
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name where Linux tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="runs of each loop (default 30)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be 1 or more")
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        parser.error(f"--json {options.json}: give a file in a folder that is there")
    torch.set_num_threads(1)

    draw = torch.Generator().manual_seed(0)
    z, uncond, cond = (torch.randn(1, 4, 64, 64, generator=draw) for _ in range(3))
    karras = {**SD, "use_karras_sigmas": True}
    schedulers = {
        BASE: DPMSolverMultistepScheduler(**karras, final_sigmas_type="zero"),
        SDE: DPMSolverMultistepScheduler(
            **karras, final_sigmas_type="zero", algorithm_type="sde-dpmsolver++"
        ),
        "diffusers UniPCMultistep": UniPCMultistepScheduler(**karras),
        "diffusers DDIM": DDIMScheduler(**SD),
    }
    schedule, pair = NoiseSchedule.from_scheduler(schedulers[BASE]), (uncond, cond)
    loops = {f"ours, {name}": ours(name, schedule, z, pair) for name in OURS}
    loops |= {name: diffusers(found, z, pair) for name, found in schedulers.items()}
    loops[NOISE] = noise(z)
    other = k_diffusion(schedule, z, pair)
    if other is not None:
        loops["k-diffusion sample_dpmpp_2m"] = other

    report = {
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            **{name: installed(name) for name in ("torch", "diffusers", "k-diffusion")},
        },
        "repeats": options.repeats,
        "loops": measure(loops, options.repeats),
    }
    print(markdown(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
