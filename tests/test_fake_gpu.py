"""Whole runs on a pretended CUDA device, which needs none: shapes, dtypes and devices, no values.

Where a tensor of the CPU meets the state, or a value of the GPU is read, torch raises; copies to
the CPU and copies that wait are counted.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import latent_diffusion
import latent_sdxl
from pipelines import first_latent
from pipelines.approximate import approximated
from pipelines.approximation import parse
from samplers import NoiseSchedule, compile_plan, generators, loop
from samplers.dropin.inline import inline_region

STANDINS = Path(__file__).parents[1] / "standins"
IMAGE = "ddim_edit", "ddim_inversion_cfg++", "coupled_edit"
SD = "ddim", "ddim_cfg++", "dpm2s", "dpm3m_sde_cfg++", "unipc", "dpm++_2m_cfgpp", *IMAGE
XL = "ddim", "ddim_cfg++", "euler_cfg++", "ddim_edit_cfg++", "coupled_edit_cfg++"


class Copies(TorchDispatchMode):
    """Count copies between devices that wait for the work before them.

    down  from the GPU
    up    to it, from memory that is not pinned
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = self.up = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default:
            pair = args[0].device.type, out.device.type
            self.down += pair == ("cuda", "cpu")
            self.up += pair == ("cpu", "cuda") and not kwargs.get("non_blocking")
        return out


@pytest.fixture
def pretend(monkeypatch):
    """Return what starts pretending for a loaded model, in half precision.

    Noise is then seeded by an image's number: a first latent without content has none to seed by.
    """
    monkeypatch.setattr(loop, "generators_of", lambda z: generators(range(len(z))))
    monkeypatch.setattr(first_latent, "check_range", lambda x: None)  # its values are none either
    mode = FakeTensorMode()

    def start(model) -> Copies:
        # the benchmark class makes a schedule of its own, out of values
        monkeypatch.setattr(NoiseSchedule, "from_scheduler", lambda _, own=model.schedule: own)
        mode.__enter__()
        move(model)
        return Copies()

    yield start
    mode.__exit__(None, None, None)


def move(model) -> None:
    def moved(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(x.shape, dtype=dtype, device="cuda")

    for name, value in list(vars(model).items()):
        if isinstance(value, torch.Tensor):
            setattr(model, name, moved(value, value.dtype))
        for net in value.modules() if isinstance(value, torch.nn.Module) else ():
            for key, x in net._parameters.items():
                if x is not None:
                    half = moved(x, torch.float16)
                    net._parameters[key] = torch.nn.Parameter(half, requires_grad=False)
            for key, x in net._buffers.items():
                if x is not None:
                    net._buffers[key] = moved(x, torch.half if x.is_floating_point() else x.dtype)
    model.device, model.dtype = torch.device("cuda"), torch.float16


def loaded(module, name: str, standin: str):
    key = str(STANDINS / standin)
    return module.get_solver(name, solver_config={"num_sampling": 4}, model_key=key, device="cpu")


def inputs(name: str, prompt: str = "prompt") -> dict:
    if any(word in name for word in ("edit", "inversion")):
        return {prompt: ["", "a", "b"], "src_img": torch.empty(2, 3, 64, 64)}
    return {prompt: ["", ["a", "b"]]}


@pytest.mark.parametrize("name", SD)
@pytest.mark.parametrize("standin", ["sd15", "sd20"])
def test_stable_diffusion(name, standin, pretend):
    solver = loaded(latent_diffusion, name, standin)
    with pretend(solver) as copies:
        images = solver.sample(cfg_guidance=0.6, seeds=[1, 2], **inputs(name))
    assert images.shape == (2, 3, 64, 64)
    assert images.device.type == "cpu"
    assert copies.down == 1  # the images


@pytest.mark.parametrize("name", XL)
def test_sdxl(name, pretend):
    solver = loaded(latent_sdxl, name, "sdxl")
    with pretend(solver) as copies:
        images = solver.sample(cfg_guidance=0.6, seeds=[1, 2], **inputs(name, "prompt1"))
    assert images.shape == (2, 3, 64, 64)
    assert images.device.type == "cpu"
    assert copies.down == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [("exp2m_cfg++", {}), ("exp2m_cfg++", {"noise": "path"}), ("dpm++_2m_cfg++", {})],
)
def test_more_steps_make_no_more_copies(name, options, pretend):
    """Noise comes out of pinned memory, coefficients and timesteps are there already."""
    solver = loaded(latent_sdxl, "ddim", "sdxl")
    plans = [compile_plan(name, solver.schedule, nfe, **options) for nfe in (3, 3, 9)]
    counts = []
    with pretend(solver) as copies:
        for plan in plans:  # the first time, texts are embedded
            latents, images = solver.generate(plan, ["a", "b"], [1, 2])
            counts.append((copies.up, copies.down))
    assert (latents.device.type, images.device.type) == ("cuda", "cpu")
    up, down = zip(*counts, strict=True)
    assert up[2] - up[1] == up[1] - up[0]
    assert down == (1, 2, 3)  # the images


@pytest.mark.parametrize(
    "spec", ["propagate[keys=uniform:2]", "cache[keys=uniform:2,depth=1]", "gate[after=0.5]"]
)
def test_approximations(spec, pretend):
    solver = loaded(latent_diffusion, "ddim", "sd15")
    ready = approximated(solver, solver.plan("exp2m_cfg++", 0.6), parse(spec))
    with pretend(solver) as copies:
        latents, images = ready.generate(["a", "b"], [1, 2])
    assert (latents.device.type, images.device.type) == ("cuda", "cpu")
    assert copies.down == 1


class Host:
    """What CFGpp's classes give the self-contained one; the second row depends on the timestep."""

    device, dtype, vae_scale_factor = torch.device("cuda"), torch.float16, 8

    def get_text_embed(self, **_):
        return None, None

    def initialize_latent(self, **_):
        return torch.empty(2, 4, 8, 8, dtype=self.dtype, device=self.device)

    def predict_noise(self, z, t, *_):
        assert z.dtype == self.dtype
        return z * 0.5, z * t.to(z.dtype)

    def decode(self, z):
        return z


def self_contained(base: str, arm: str, nfe: int) -> Host:
    """Return a solver of the class, its coefficients computed."""
    names = {"torch": torch, "tqdm": lambda rows, **_: rows, base: Host}
    names |= {"SDXLLightning": type(None), "register_solver": lambda name: lambda cls: cls}
    exec(inline_region(base, arm, verify=False), names)
    solver, schedule = names["BaseDDIMCFGpp"](), NoiseSchedule.stable_diffusion()
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    solver.scheduler = SimpleNamespace(alphas_cumprod=table, timesteps=range(nfe))
    rows = solver._rows(nfe, 0.6)
    solver._rows = lambda *_: rows
    return solver


@pytest.mark.parametrize("base", ["StableDiffusion", "SDXL"])
@pytest.mark.parametrize("arm", ["exp2m_cfg++", "dpm2s", "dpm++_2s_a_cfg++"])
def test_the_self_contained_class(base, arm, monkeypatch):
    """Its noise is there before the first call, and no later step waits for a copy."""
    solver = self_contained(base, arm, 6)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda x: np.zeros(x.shape, np.float32))
    waits = []

    def watched(*args, own=solver.predict_noise):
        waits.append((copies.up, copies.down))
        return own(*args)

    solver.predict_noise = watched
    with FakeTensorMode(), Copies() as copies:
        if base == "SDXL":
            solver.reverse_process(None, None, 0.6, {}, shape=(64, 64))
        else:
            solver.sample(0.6, ["", "x"])
    assert len(waits) >= 6
    assert set(waits) == {waits[0]}
