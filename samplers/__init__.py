"""Training-free diffusion samplers as tables: compile a plan, run it, read it.

schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
plan = compile_plan("exp2m_cfg++", schedule, nfe=20, scale=0.6)
latents = sample(model, noise, plan)
"""

from samplers.compile import compile_plan
from samplers.denoiser import as_epsilon
from samplers.guidance import read_cfg_guidance
from samplers.loop import Step, sample, trajectory
from samplers.noise import generators, generators_of, standard_normal
from samplers.plan import Plan, Row, Update
from samplers.registry import Recipe, available, register
from samplers.schedule import NoiseSchedule, sdxl_family

__all__ = [
    "NoiseSchedule",
    "Plan",
    "Recipe",
    "Row",
    "Step",
    "Update",
    "as_epsilon",
    "available",
    "compile_plan",
    "generators",
    "generators_of",
    "read_cfg_guidance",
    "register",
    "sample",
    "sdxl_family",
    "standard_normal",
    "trajectory",
]
