"""The figures and tables of docs/method.md, on the closed-form bed of `benchmarks.mixture`.

    python -m benchmarks.method              # prints the tables, writes docs/method/*.png

Nothing here is a network: noise levels are Stable Diffusion's, the denoisers are exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from math import inf
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.gaussian import spread_error
from benchmarks.mixture import SCHEDULE, Bed
from eval.tables import markdown
from samplers import Plan, compile_plan, guidance

OUT = Path(__file__).resolve().parents[1] / "docs" / "method"
LAMBDA = 0.6  # the paper's, which it pairs with ω = 7.5 at 50 steps
STEPS = (10, 20, 50)
KICKS = {
    "ddim_cfg++": "CFG++ paper, ComfyUI `euler_cfg_pp` on this grid",
    "euler_cfg++": "CFGpp `euler_cfg++`",
    "dpm2m_cfg++": "2M on D_u, textbook",
    "dpm++_2m_cfg++": "CFGpp SD file, ComfyUI `dpmpp_2m_cfg_pp`",
    "dpm++_2m_cfgpp": "CFGpp SDXL file",
    "res_2m_cfg++": "ComfyUI `res_multistep_cfg_pp`",
    "dpm2s_cfg++": "2S on D_u, textbook",
    "dpm++_2s_a_cfg++": "CFGpp `dpm++_2s_a_cfg++`",
    "dpm3m_sde_cfg++": "3M SDE, reForge",
    "exp2m_cfg++": "ours",
}
NFES = (5, 8, 10, 15, 20, 30, 50, 100)
IMAGES = 500
FAR = 640  # steps of the solution that solvers are measured against
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#111111")  # Okabe and Ito
OURS = "#D55E00"


def weights(plan: Plan) -> tuple[list[float], list[float]]:
    """Return noise levels and the weight of guidance in CFG units at each step of a plan."""
    rows = list(plan)
    if plan.rate:
        return [row.sigma for row in rows], [row.weight for row in rows]
    return [r.sigma for r in rows], [sum(r.carry.delta) / sum(r.carry.uncond) for r in rows]


def implied_table() -> str:
    """The mean ω that λ_cfg = 0.6 stands for in every published CFG++ rule, by NFE."""
    rows = []
    for name, source in KICKS.items():
        found = [compile_plan(name, SCHEDULE, n, scale=LAMBDA).omega for n in STEPS]
        rows.append([f"`{name}`", source, *(f"{omega:.2f}" for omega in found)])
    return markdown(["sampler", "as in", *(f"NFE {n}" for n in STEPS)], rows)


def conversion_table(omegas: Iterable[float] = (2, 3, 5, 7.5, 10)) -> str:
    """The λ_cfg that stands for a strength in CFG units, by convention and NFE."""
    rows = []
    for omega in omegas:
        kicks = [
            compile_plan(name, SCHEDULE, n, omega=omega).scale
            for name in ("ddim_cfg++", "euler_cfg++")
            for n in STEPS
        ]
        ours = omega / guidance.mean_bell(SCHEDULE)
        a1111 = 12.5 * kicks[4]
        rows.append([f"{omega:g}", f"{ours:.2f}", *(f"{k:.2f}" for k in kicks), f"{a1111:.1f}"])
    head = ["ω", "`exp2m_cfg++`, any NFE"]
    head += [f"DDIM CFG++, {n}" for n in STEPS] + [f"Euler CFG++ (Karras), {n}" for n in STEPS]
    return markdown([*head, "web UI slider (12.5 λ), 20"], rows)


def draw_weights(axes: tuple[Axes, Axes]) -> None:
    """ω over noise: a kick's depends on NFE, a rate's does not."""
    for n, colour in zip(STEPS, COLOURS, strict=False):
        axes[0].plot(*weights(compile_plan("ddim_cfg++", SCHEDULE, n, scale=LAMBDA)), "o-",
                     color=colour, ms=3, label=f"CFG++ kick, NFE {n}")  # fmt: skip
        axes[1].plot(*weights(compile_plan("exp2m_cfg++", SCHEDULE, n, scale=LAMBDA,
                     shape="bell", grid="leading", eta=0.0, cap=inf)), "o-", color=colour, ms=3,
                     label=f"bell, NFE {n}")  # fmt: skip
    for shape, cap, style, label in (
        ("constant", inf, "k--", "constant"),
        ("late", inf, "--", "late"),
        ("late", None, "o-", "late and bounded, NFE 20"),
    ):
        plan = compile_plan("exp2m_cfg++", SCHEDULE, 20, scale=LAMBDA, shape=shape, cap=cap)
        colour = {} if shape == "constant" else {"color": OURS}
        axes[1].plot(*weights(plan), style, ms=3, label=label, **colour)
    for ax, title in zip(axes, ("λ_cfg·Δ per step", "ω(σ), a rate"), strict=True):
        ax.set(xscale="log", xlabel="noise level σ", title=title, ylabel="weight in CFG units")
        ax.invert_xaxis()
        ax.legend(frameon=False, fontsize=8)


def draw_invariance(axes: Axes, bed: Bed) -> None:
    """Alignment at one λ_cfg over NFE: the kick's drifts, the rate's stays."""
    for name, colour, label in (
        ("ddim_cfg++", COLOURS[0], "DDIM CFG++ (kick)"),
        ("dpm++_2m_cfg++", COLOURS[1], "2M CFG++ (kick, CFGpp)"),
        ("exp2m_cfg++", OURS, "exp2m_cfg++[eta=0,shape=bell] (rate)"),
    ):
        options = {}
        if name == "exp2m_cfg++":  # on the grid of the others
            options = {"shape": "bell", "eta": 0.0, "cap": inf, "grid": "karras"}
        found = []
        for nfe in NFES:
            plan = compile_plan(name, SCHEDULE, nfe, scale=0.15, **options)
            found.append(bed.score(*bed.run(plan, IMAGES))[1])
        axes.plot(NFES, found, "o-", color=colour, ms=3.5, label=label)
    axes.set(xscale="log", xlabel="NFE", ylabel="mean log p(class | x0), nats",
             title="Alignment at λ_cfg = 0.15")  # fmt: skip
    axes.set_xticks(NFES, [str(n) for n in NFES], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")


def draw_error(axes: Axes, bed: Bed) -> None:
    """Distance to the exact solution from the same noise, ω = 2."""
    far, _ = bed.run(compile_plan("exp3m", SCHEDULE, FAR, omega=2), IMAGES)
    arms = {
        "ddim": ({"grid": "karras"}, COLOURS[0]),
        "dpm2m": ({}, COLOURS[1]),
        "dpm3m": ({}, COLOURS[2]),
        "exp3m": ({}, COLOURS[3]),
        "unipc": ({}, COLOURS[4]),
        "exp2m_cfg++[eta=0,shape=constant]": (
            {"shape": "constant", "eta": 0.0, "grid": "karras"},
            OURS,
        ),
    }
    nfes = NFES[2:]
    for name, (options, colour) in arms.items():
        errors = []
        for nfe in nfes:
            plan = compile_plan(name.partition("[")[0], SCHEDULE, nfe, omega=2, **options)
            near, _ = bed.run(plan, IMAGES)
            errors.append(float((near - far).square().mean().sqrt()))
        axes.plot(nfes, errors, "o-", color=colour, ms=3.5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="NFE", ylabel="RMS distance to the solution",
             title="Solver error at ω = 2")  # fmt: skip
    axes.set_xticks(nfes, [str(n) for n in nfes], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)


def draw_trend(axes: Axes, bed: Bed) -> None:
    """How well D's last slope predicts its next change along paths of strength η."""
    etas = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    for omega, colour in ((1.0, COLOURS[0]), (2.0, COLOURS[1]), (4.0, OURS)):
        axes.plot(etas, [slope_share(bed, eta, omega) for eta in etas], "o-", color=colour,
                  ms=3.5, label=f"ω = {omega:g}")  # fmt: skip
    axes.axhline(0, color="#999999", lw=0.8)
    axes.set(xlabel="stochasticity η", ylabel="best share of the extrapolation",
             title="What D's past says of its future")  # fmt: skip
    axes.legend(frameon=False)


def slope_share(bed: Bed, eta: float, omega: float, steps: int = 20) -> float:
    """Return the least-squares share s in D_{i+1} − D_i ≈ s·(h/h_prev)·(D_i − D_{i−1}).

    1 is a smooth path on which extrapolation is right; 0 a martingale, on which it only adds noise.
    """
    plan = compile_plan("exp2m_cfg++", SCHEDULE, steps, omega=omega, shape="constant", order=1,
                        eta=eta, grid="karras")  # fmt: skip
    seen = [step.denoised for step in bed.steps(plan, IMAGES)]
    lam = torch.tensor([row.sigma for row in plan], dtype=torch.float64).log().neg()
    above = below = 0.0
    for i in range(1, len(seen) - 1):
        ratio = float((lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1]))
        guess = ratio * (seen[i] - seen[i - 1])
        above += float((guess * (seen[i + 1] - seen[i])).sum())
        below += float((guess * guess).sum())
    return above / below


# options of the sampler at η = 1; the default first
NOISY = {
    "half of the slope, the default": ({"history": 0.5}, OURS),
    "none": ({"history": 0.0}, COLOURS[0]),
    "all": ({"history": 1.0}, COLOURS[1]),
    "half, and corrector": ({"history": 0.5, "corrector": True}, COLOURS[2]),
}


def draw_spread(axes: tuple[Axes, Axes]) -> None:
    """What is lost of Gaussian data's spread: by its width at NFE 20, and over NFE."""
    widths, nfes = np.geomspace(0.05, 4, 40), (10, 20, 40, 80, 160, 320)
    for label, (options, colour) in NOISY.items():
        plan = compile_plan("exp2m_cfg++", SCHEDULE, 20, omega=1, grid="karras", **options)
        lost = [spread_error(plan, width) for width in widths]
        axes[0].plot(widths, lost, color=colour, label=label)
        errors = []
        for nfe in nfes:  # to a level above 0, since the last step hides the order
            grid = np.geomspace(10, 0.05, nfe + 1).tolist()
            plan = compile_plan("exp2m_cfg++", SCHEDULE, nfe, omega=1, grid=grid, **options)
            errors.append(abs(spread_error(plan, 1.0)))
        axes[1].plot(nfes, errors, "o-", color=colour, ms=3.5, label=label)
    axes[0].axhline(0, color="#999999", lw=0.8)
    axes[0].set(xscale="log", xlabel="width of the data", ylabel="ln(spread / its exact value)",
                title="Spread of Gaussian data at NFE 20, Karras")  # fmt: skip
    axes[1].set(xscale="log", yscale="log", xlabel="NFE", ylabel="error of ln spread, width 1",
                title="Weak order")  # fmt: skip
    axes[1].set_xticks(nfes, [str(n) for n in nfes], minor=False)
    axes[1].minorticks_off()
    axes[0].legend(frameon=False, fontsize=8)


def share_table() -> str:
    """What share of the extrapolation the corrector of a frozen D is worth, over a plan's rows."""
    rows = []
    for grid in ("ays", "karras"):
        means = []
        for nfe in (*STEPS, 100):
            frozen, whole = (
                compile_plan("exp2m_cfg++", SCHEDULE, nfe, omega=1, grid=grid, **options)
                for options in ({"history": 0.0, "corrector": True}, {"history": 1.0})
            )
            pairs = list(zip(frozen, whole, strict=True))[1:-1]  # which have a slope
            shares = [a.carry.uncond[1] / b.carry.uncond[1] for a, b in pairs]
            means.append(f"{sum(shares) / len(shares):.2f}")
        rows.append([f"`{grid}`", *means])
    return markdown(["grid", *(f"NFE {n}" for n in (*STEPS, 100))], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the figures")
    args = parser.parse_args()
    print(implied_table(), conversion_table(), share_table(), sep="\n\n")
    bed = Bed(imperfect=0.0)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, width, draw in (
        ("weights", 2, draw_weights),
        ("invariance_and_error", 2, lambda a: (draw_invariance(a[0], bed), draw_error(a[1], bed))),
        ("trend", 1, lambda axes: draw_trend(axes, bed)),
        ("spread", 2, draw_spread),
    ):
        figure = Figure(figsize=(4.6 * width, 3.4), layout="constrained")
        draw(figure.subplots(1, width))
        figure.savefig(args.out / f"{name}.png", dpi=140, metadata={"Software": None})


if __name__ == "__main__":
    main()
