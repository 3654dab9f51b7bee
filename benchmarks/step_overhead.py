"""Measure what a sampling loop costs per step beside the network.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --repeats 40 --json overhead.json

The network is a function that returns two tensors made beforehand, so what remains is the loop:
preparing the input, combining the two predictions by classifier-free guidance, and the second-order
multistep update (DPM-Solver++ 2M, 20 evaluations, float32, one 4×64×64 latent, one CPU thread).
Choosing timesteps and compiling the plan are left out, on both sides. The loops take turns in one
process; the fastest repeat and the median are reported, per evaluation, in CPU time, which other
processes do not lengthen.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from samplers import NoiseSchedule, compile_plan, sample

NFE, OMEGA = 20, 7.5
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
Pair = tuple[torch.Tensor, torch.Tensor]


def ours(name: str, schedule: NoiseSchedule, z: torch.Tensor, pair: Pair) -> Callable[[], object]:
    plan = compile_plan(name, schedule, NFE)
    return lambda: sample(lambda z, t: pair, z, plan)


def diffusers(scheduler, z: torch.Tensor, pair: Pair) -> Callable[[], object]:
    """The lines of StableDiffusionPipeline's loop that are not the network."""

    def run() -> torch.Tensor:
        x = z * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            uncond, cond = pair
            eps = uncond + OMEGA * (cond - uncond)
            x = scheduler.step(eps, t, x, return_dict=False)[0]
        return x

    return run


def k_diffusion(
    schedule: NoiseSchedule, z: torch.Tensor, pair: Pair
) -> Callable[[], object] | None:
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

    return lambda: sample_dpmpp_2m(denoised, z * sigmas[0], sigmas, disable=True)


def measure(
    loops: dict[str, Callable[[], object]], reset: Callable[[], object], repeats: int
) -> dict[str, dict[str, float]]:
    """Return the fastest and the median time per evaluation of each loop, in microseconds.

    reset  makes diffusers' scheduler forget its last run; called before every run, not timed
    """
    times: dict[str, list[float]] = {name: [] for name in loops}
    with torch.no_grad():
        for repeat in range(repeats + 3):  # three to warm up
            for name, run in loops.items():
                reset()
                start = time.process_time()
                run()
                if repeat >= 3:
                    times[name].append((time.process_time() - start) / NFE * 1e6)
    return {n: {"min_us": min(t), "median_us": statistics.median(t)} for n, t in times.items()}


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
        f"k-diffusion {machine['k-diffusion']}; {report['repeats']} repeats of {NFE} evaluations",
        "",
        "| loop | fastest, µs/evaluation | median, µs/evaluation | of diffusers' (fastest) |",
        "|---|---:|---:|---:|",
    ]
    base = report["loops"]["diffusers DPMSolverMultistep"]["min_us"]
    for name, row in report["loops"].items():
        share = row["min_us"] / base
        lines.append(f"| {name} | {row['min_us']:.1f} | {row['median_us']:.1f} | {share:.2f} |")
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30, help="runs of each loop (default 30)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there as well")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be 1 or more")
    torch.set_num_threads(1)

    draw = torch.Generator().manual_seed(0)
    z, uncond, cond = (torch.randn(1, 4, 64, 64, generator=draw) for _ in range(3))
    scheduler = DPMSolverMultistepScheduler(**SD, use_karras_sigmas=True, final_sigmas_type="zero")
    schedule, pair = NoiseSchedule.from_scheduler(scheduler), (uncond, cond)
    loops = {
        "ours, dpm2m": ours("dpm2m", schedule, z, pair),
        "ours, exp2m_cfg++": ours("exp2m_cfg++", schedule, z, pair),
        "diffusers DPMSolverMultistep": diffusers(scheduler, z, pair),
    }
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
        "loops": measure(loops, lambda: scheduler.set_timesteps(NFE), options.repeats),
    }
    print(markdown(report))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
