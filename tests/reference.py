"""Published update rules, restated from their formulas, for whole-trajectory comparisons.

Everything is in variance-exploding units on a list of noise levels. `estimate(x, i)` returns the
pair (D_u, D_c) at evaluation i; a rule returns every state it passes through. Sources: the papers
named at each rule, and for CFGpp's files the formulas that their behaviour follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, expm1, log, sqrt

import torch

from samplers import Plan, trajectory
from samplers.loop import Model

Estimate = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
Noise = Callable[[], torch.Tensor]


# --- a network without weights -------------------------------------------------------------------


def toy_epsilon(z: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (ε_u, ε_c): smooth, nonlinear, different in every channel, never far from z."""
    shift = torch.arange(z.shape[1], dtype=z.dtype).reshape(1, -1, 1, 1)
    bend = torch.sin(1.3 * z.roll(1, 1) + shift) * 0.3
    level = sigma / (1 + sigma)
    return level * z + bend, level * z + 0.8 * bend + 0.1 * torch.cos(z + shift)


def toy_network(plan: Plan) -> Model:
    """`toy_epsilon` for one run of a plan: the level is the row's, whatever timestep it tells."""
    rows = iter(plan)
    return lambda z, t: toy_epsilon(z, next(rows).sigma)


def toy_estimate(levels: Sequence[float]) -> Estimate:
    """`toy_epsilon` as (D_u, D_c) of a state in VE units."""

    def estimate(x: torch.Tensor, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = float(levels[i])
        pair = toy_epsilon(x / sqrt(1 + sigma**2), sigma)
        return x - sigma * pair[0], x - sigma * pair[1]

    return estimate


def states(
    plan: Plan, z: torch.Tensor, generators: Sequence[torch.Generator] | None = None
) -> list[torch.Tensor]:
    """Run a plan with the toy network and return the state after each evaluation, in VE units."""
    steps = trajectory(toy_network(plan), z, plan, generators)
    return [
        step.latent * sqrt(1 + row.carry.sigma**2) for step, row in zip(steps, plan, strict=True)
    ]


# --- k-diffusion's samplers (Karras et al. 2022, arXiv:2206.00364; Lu et al., arXiv:2211.01095) ---


def guided(estimate: Estimate, omega: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    def denoised(x: torch.Tensor, i: int) -> torch.Tensor:
        uncond, cond = estimate(x, i)
        return uncond + omega * (cond - uncond)

    return denoised


def ancestral_split(sigma: float, to: float, eta: float = 1.0) -> tuple[float, float]:
    """Return (σ_down, σ_up), σ_down² + σ_up² = to²."""
    up = min(to, eta * sqrt(to**2 * (sigma**2 - to**2) / sigma**2))
    return sqrt(to**2 - up**2), up


def euler(denoised, x, levels) -> list[torch.Tensor]:
    out = []
    for i, (s, t) in enumerate(pairwise(levels)):
        x = x + (x - denoised(x, i)) / s * (t - s)
        out.append(x)
    return out


def euler_ancestral(denoised, x, levels, noise: Noise) -> list[torch.Tensor]:
    out = []
    for i, (s, t) in enumerate(pairwise(levels)):
        down, up = ancestral_split(s, t)
        x = x + (x - denoised(x, i)) / s * (down - s)
        x = x + up * noise() if t else x
        out.append(x)
    return out


def dpmpp_2m(denoised, x, levels) -> list[torch.Tensor]:
    out, old, h_old = [], None, None
    for i, (s, t) in enumerate(pairwise(levels)):
        d = denoised(x, i)
        if t == 0:
            x = d
        else:
            h = log(s / t)
            mix = d if old is None else d + (d - old) * h / (2 * h_old)
            x = t / s * x - expm1(-h) * mix
            h_old = h
        old = d
        out.append(x)
    return out


def dpmpp_2s(denoised, x, levels) -> list[torch.Tensor]:
    """Steps over pairs of levels; evaluation 2k is at the pair's first, 2k + 1 at its middle."""
    out = []
    for i in range(0, len(levels) - 2, 2):
        s, mid, t = levels[i : i + 3]
        r = log(s / mid) / log(s / t)
        d = denoised(x, i)
        u = mid / s * x + (1 - mid / s) * d
        ahead = denoised(u, i + 1)
        x = t / s * x + (1 - t / s) * ((1 - 1 / (2 * r)) * d + ahead / (2 * r))
        out.append(x)
    return out


def dpmpp_3m_sde(denoised, x, levels, noise: Noise | None, eta: float) -> list[torch.Tensor]:
    """As published: the second difference lacks a factor 2."""
    out, past = [], []  # past: (D, h of the step that followed), the latest first
    for i, (s, t) in enumerate(pairwise(levels)):
        d = denoised(x, i)
        if t == 0:
            out.append(d)
            break
        h = log(s / t)
        g = h * (1 + eta)
        x = exp(-g) * x - expm1(-g) * d
        phi2 = expm1(-g) / g + 1
        phi3 = phi2 / g - 0.5
        if len(past) == 1:
            (d1, h1) = past[0]
            x = x + phi2 * (d - d1) * h / h1
        elif len(past) > 1:
            (d1, h1), (d2, h2) = past[:2]
            r0, r1 = h1 / h, h2 / h
            first, second = (d - d1) / r0, (d1 - d2) / r1
            slope = first + (first - second) * r0 / (r0 + r1)
            x = x + phi2 * slope - phi3 * (first - second) / (r0 + r1)
        if eta:
            x = x + t * sqrt(-expm1(-2 * eta * h)) * noise()
        past.insert(0, (d, h))
        out.append(x)
    return out


# --- CFGpp's rules (CFG++, arXiv:2406.08070, Algorithm 2, and its two files' multistep forms) -----


def cfgpp_euler(estimate: Estimate, x, levels, scale, noise: Noise | None = None):
    """D_g + σ_down·(x − D_u)/σ, with D_g = D_u + λ·Δ; ancestral when there is noise."""
    out = []
    for i, (s, t) in enumerate(pairwise(levels)):
        uncond, cond = estimate(x, i)
        down, up = ancestral_split(s, t) if noise and t else (t, 0.0)
        x = uncond + scale * (cond - uncond) + down / s * (x - uncond)
        x = x + up * noise() if up else x
        out.append(x)
    return out


def cfgpp_2m_sd(estimate: Estimate, x, levels, scale):
    """SD file: second order from the *guided* estimate minus the previous *unconditional* one."""
    out, old, h_old = [], None, None
    for i, (s, t) in enumerate(pairwise(levels)):
        uncond, cond = estimate(x, i)
        target = uncond + scale * (cond - uncond)
        x = target + t / s * (x - uncond)
        if t and old is not None:
            h = log(s / t)
            x = x - expm1(-h) * h / (2 * h_old) * (target - old)
        h_old, old = (log(s / t) if t else None), uncond
        out.append(x)
    return out


def cfgpp_2m_sdxl(estimate: Estimate, x, levels, scale):
    """SDXL file: unconditional minus unconditional; the levels end at σ_min."""
    out, old, h_old = [], None, None
    for i, (s, t) in enumerate(pairwise(levels)):
        uncond, cond = estimate(x, i)
        h = log(s / t)
        x = uncond + scale * (cond - uncond) + t / s * (x - uncond)
        if old is not None:
            x = x - expm1(-h) * h / (2 * h_old) * (uncond - old)
        old, h_old = uncond, h
        out.append(x)
    return out
