"""Any sampler of this repository in a stock diffusers pipeline, in the place of its scheduler."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from samplers import NoiseSchedule, Plan, Step, as_epsilon, compile_plan, sdxl_family, trajectory
from samplers.execute import Pair
from samplers.loop import version_of
from samplers.registry import find
from samplers.schedule import alpha_of

logger = logging.getLogger(__name__)


def use_sampler(
    pipe: DiffusionPipeline,
    name: str = "exp2m_cfg++",
    *,
    omega: float | None = None,
    scale: float | None = None,
    **options: object,
) -> PlanScheduler:
    """Let a pipeline of SD's or SDXL's UNet draw with a sampler; return its new scheduler.

    The pipeline is called as ever: `num_inference_steps` is the number of evaluations, and
    `guidance_scale` the strength in CFG units, ω, for every sampler. Text to image, image to image,
    inpainting and ControlNets alike; what it does with adapters, offloading and callbacks stays.

    `guidance_scale` is read at the first evaluation and holds for the whole run.

    omega, scale  a strength that holds whatever `guidance_scale` says, which then only has to be
                  above 1, so that the unconditional row is evaluated: see `compile_plan`. What else
                  the pipeline does to its guided output (`guidance_rescale`) is left out, with a
                  line in the log
    options       of `compile_plan`: grid, shape, eta, preset, …

    Raises ValueError for an unknown sampler and for a pipeline that is no SD or SDXL.
    `pipe.scheduler.detach()` puts the pipeline's own scheduler back, which is needed before
    `save_pretrained`.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None or not unet.config.get("cross_attention_dim"):
        raise ValueError(
            f"{type(pipe).__name__} has no unet that reads a text; samplers here are for Stable "
            "Diffusion 1, 2 and XL"
        )
    if find(name).inverts:
        raise ValueError(f"sampler {name!r} is an inversion; a pipeline draws images from noise")
    if isinstance(pipe.scheduler, PlanScheduler):
        pipe.scheduler.detach(pipe)
    pipe.scheduler = PlanScheduler(pipe, name, {"omega": omega, "scale": scale}, options)
    return pipe.scheduler


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """A plan as diffusers drives it: the pipeline calls the network, `step` goes on from there.

    A scheduler is given the guided output alone, and a plan needs both rows; a hook on the UNet
    keeps them. The first latent decides all noise, so `generator` matters for that one only.

    plan  the one that runs or ran last; None before the first step
    """

    order = 1  # diffusers means evaluations per entry of `timesteps`
    init_noise_sigma = 1.0

    def __init__(
        self,
        pipe: DiffusionPipeline,
        name: str,
        strength: dict[str, float | None],
        options: dict[str, object],
    ):
        self._pipe, self._own = pipe, pipe.scheduler
        self.register_to_config(**self._own.config)
        self.schedule = NoiseSchedule.from_scheduler(self._own)
        self.alphas_cumprod = self._own.alphas_cumprod
        unet = pipe.unet.config
        if unet.get("addition_embed_type") == "text_time":
            self.schedule.family = sdxl_family(unet.sample_size)
        prediction = self._own.config.get("prediction_type", "epsilon")
        self._model = as_epsilon(lambda z, t: self._rows, prediction, self.schedule)
        self._name, self._strength, self._options = name, strength, options
        self.plan: Plan | None = None
        self._nfe = self._grid = None
        self._steps: Iterator[Step] | None = None  # of the run under way
        self._output: torch.Tensor | None = None
        self._hook = pipe.unet.register_forward_hook(self._keep)
        self._detached = False

    def _keep(self, unet: torch.nn.Module, args: Any, output: Any) -> None:
        self._output = output[0]

    def detach(self, pipe: DiffusionPipeline | None = None) -> None:
        """Give the pipeline its own scheduler back, or one that was made from it by `from_pipe`."""
        if pipe in (None, self._pipe):
            self._hook.remove()
            self._detached = True
        (pipe or self._pipe).scheduler = self._own

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Prepare a run of so many evaluations.

        sigmas  noise levels in place of the sampler's own grid, falling; a last 0 may be left out
        """
        self._grid = self._options.get("grid")
        if sigmas is not None:
            self._grid = [*map(float, sigmas), *([0.0] if sigmas[-1] else [])]
            num_inference_steps = len(self._grid) - 1
        self._nfe, self._steps = num_inference_steps, None
        self._sketch = self._compile({"omega": 1.0})  # only its levels and timesteps are read
        times = [row.timestep for row in self._sketch]
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.num_inference_steps = self._nfe
        self.init_noise_sigma = self._sketch.program.start

    def _compile(self, strength: dict[str, float | None]) -> Plan:
        options = {**self._options, "grid": self._grid, **strength}
        return compile_plan(self._name, self.schedule, nfe=self._nfe, **options)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Leave out the first evaluations: image to image starts at a lower noise level."""
        if not begin_index:
            return
        recipe = find(self._name)
        if recipe.own_midpoints or recipe.start != "vp":
            raise ValueError(
                f"sampler {self._name!r} cannot start in the middle of its grid, as image to image "
                "does; take another one"
            )
        levels = [*(row.sigma for row in self._sketch), self._sketch.end]
        self._grid = levels[begin_index:]
        self._nfe = len(self._grid) - 1

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """Return the sample itself: states are kept as the network sees them."""
        return sample

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Return clean latents (B, 4, h, w) noised to the levels of timesteps (B,) or (1,)."""
        sigmas = [self.schedule.sigma(float(t)) for t in timesteps]
        pairs = [(alpha_of(sigma), alpha_of(sigma) * sigma) for sigma in sigmas]
        signal, level = torch.tensor(pairs, device=noise.device).T.reshape(2, -1, 1, 1, 1)
        return (signal * original_samples + level * noise).to(original_samples.dtype)

    @torch.no_grad()
    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Go on from the evaluation that the pipeline has just made at `sample`.

        model_output  the guided output; of the first evaluation it tells `guidance_scale`
        sample        what the last step returned, or what the pipeline or a callback made of it
        """
        self._rows = self._both_rows(sample)
        if self._steps is None:
            self.plan = self._compile(self._stated(model_output))
            self._steps = trajectory(self._model, sample / self.init_noise_sigma, self.plan)
        elif sample is not self._given or version_of(sample) != self._version:
            self._change(sample)
        self._last = next(self._steps)
        if self._last.index < self.plan.nfe - 1:
            given = self._last.next_probe()
        else:
            given, self._steps = self._last.latent, None
        self._given = given.to(sample.dtype)
        self._version = version_of(self._given)
        return SchedulerOutput(self._given) if return_dict else (self._given,)

    def _both_rows(self, sample: torch.Tensor) -> Pair:
        """Return what the UNet said of the unconditional and of the conditional row."""
        out, self._output = self._output, None
        if out is None and self._detached:
            raise ValueError(
                "this sampler was detached from another pipeline that shared it; give this one its "
                "own scheduler back with pipe.scheduler.detach(pipe), or call use_sampler(pipe)"
            )
        if out is None:
            raise ValueError(
                "the UNet that use_sampler was given has not been called; after a change of "
                "pipe.unet call use_sampler again"
            )
        if len(out) == 2 * len(sample):
            return out.chunk(2)
        if len(out) == len(sample) and self._strength["omega"] == 1:
            return out, out
        raise ValueError(
            f"the UNet was asked for {len(out)} rows for {len(sample)} images, and guidance needs "
            "2 each; pass the pipeline a guidance_scale above 1, which is ω in CFG units (CFG++'s "
            "λ = 0.6 is 7.2), or for no guidance omega=1 to use_sampler"
        )

    def _stated(self, guided: torch.Tensor) -> dict[str, float | None]:
        """Return the strength that was fixed, or that with which the pipeline made `guided`.

        ω is read from the tensors, to two decimals: every pipeline has a guidance_scale, and none
        hands it on. Waits for the device, once a run.
        """
        fixed = self._strength != {"omega": None, "scale": None}
        eps = torch.finfo(guided.dtype).eps
        uncond, cond, guided = (x.float() for x in (*self._rows, guided))
        delta, moved = cond - uncond, guided - uncond
        square = (delta * delta).sum()
        omega = (moved * delta).sum() / square
        rest = (moved - omega * delta).norm()
        rounding = 3 * eps * (guided.norm() + moved.norm())
        square, omega, rest, rounding = torch.stack([square, omega, rest, rounding]).tolist()
        if fixed and rest > rounding:
            logger.warning(
                "%s guides by itself; what the pipeline does to its guided output beyond ω, such "
                "as guidance_rescale, is left out",
                self._name,
            )
        if fixed:
            return self._strength
        if square == 0:  # both rows are the same, so any strength is
            return {"omega": 1.0}
        if rest > rounding:
            raise ValueError(
                "the pipeline's guided output is not ε_u + ω·(ε_c − ε_u), so its strength cannot "
                "be read; leave out guidance_rescale, or pass omega= to use_sampler"
            )
        return {"omega": round(omega, 2)}

    def _change(self, sample: torch.Tensor) -> None:
        """Go on from what the pipeline or a callback made of the last result."""
        if self.plan.rows[self._last.index].probe:
            raise ValueError(
                f"sampler {self._name!r} looks ahead, so latents cannot be changed between its "
                "evaluations (inpainting, callbacks); take another one"
            )
        self._last.latent = sample
