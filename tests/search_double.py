"""Objectives and a model in closed form, for the tests of the search."""

from __future__ import annotations

from math import log

import torch
from problems import COND, UNCOND

from eval.search.evolution import Evolution, Settings
from eval.search.journal import Journal
from eval.search.objectives import Measured
from samplers import NoiseSchedule, compile_plan
from samplers.schedule import alpha_of


class Killed(Exception):
    pass


class Bowl:
    """A loss with one minimum: levels at `target`, noise-free, ω rising. `fatal`: dies there."""

    def __init__(self, target: list[float], fatal: int | None = None):
        self.target, self.fatal, self.calls = target, fatal, 0

    def measure(self, planner, start, count):
        self.calls += 1
        if self.calls == self.fatal:
            raise Killed
        plan = planner(2.0)
        loss = sum(log(r.sigma / s) ** 2 for r, s in zip(plan, self.target, strict=True))
        loss += sum(r.carry.noise for r in plan) + abs(plan.rows[-1].weight - 3.0)
        return Measured(loss + 0.01 * (start % 7), 80.0 + plan.rows[0].weight)


def evolution(folder, schedule, objective, budget=3000, seed=0, **clip):
    """A search of exp2m_cfg++ at NFE 4 on `objective`."""

    def planner(preset):
        return lambda w: compile_plan(preset.sampler, schedule, 4, omega=w, preset=preset)

    def recipe(w):
        return compile_plan("dpm2m", schedule, 4, omega=w)

    settings = Settings(budget, seed, **({"clip_weight": 0.0} | clip))
    return Evolution(objective, Journal(folder, {"of": "test"}), settings, recipe, planner)


class Closed:
    """Two mixtures on the line as a loaded model, every latent value by itself."""

    latent_shape, device = (1, 4, 4), "cpu"

    def __init__(self, schedule: NoiseSchedule):
        self.schedule, self.compiled = schedule, 0

    def compile_unet(self):
        self.compiled += 1

    def card(self):
        return {"prediction_type": "epsilon"}

    def conditioned(self, prompts, null_prompt=""):
        def model(z, t):
            sigma = self.schedule.sigma(float(t))
            x = z.double().numpy() / alpha_of(sigma)
            laws = ((x - law.denoised(x, sigma)) / sigma for law in (UNCOND, COND))
            return tuple(torch.from_numpy(eps).float() for eps in laws)

        return model
