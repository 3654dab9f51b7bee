"""CFGpp's two files as modules with a mock network, and our own on the same network.

The files are tests/fixtures/cfgpp, which only reproduce CFGpp's interface, or a real checkout:

    CFGPP_MAIN=/path/to/CFGpp python -m pytest tests/test_dropin.py
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from diffusers import DDIMScheduler

FIXTURES = Path(__file__).parent / "fixtures" / "cfgpp"
REAL = os.environ.get("CFGPP_MAIN")
FILES = ("latent_diffusion.py", "latent_sdxl.py")
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
_count = itertools.count()


class Output(dict):
    """What a UNet returns, read as out["sample"] or out[0]."""

    def __missing__(self, key: int) -> torch.Tensor:
        return self["sample"]


class MockUNet(torch.nn.Module):
    """ε of Gaussian data around an embedding's mean, bent a little; it counts its calls."""

    config = SimpleNamespace(sample_size=64, in_channels=4)

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.rows, self.times = 0, 0, []
        self.register_buffer("table", DDIMScheduler(**SCHEDULE).alphas_cumprod, persistent=False)

    def forward(self, sample, timestep, encoder_hidden_states, **kwargs) -> Output:
        t = float(timestep.float().mean())
        self.calls, self.rows, self.times = (
            self.calls + 1,
            self.rows + len(sample),
            [*self.times, t],
        )
        low = min(int(t), 998)
        a = torch.lerp(self.table[low], self.table[low + 1], t - low)
        mean = encoder_hidden_states.float().mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        z = sample.float()
        eps = (1 - a).sqrt() * (z - a.sqrt() * mean + 0.1 * torch.tanh(2 * z * mean))
        return Output(sample=eps.to(sample.dtype))


def checkout(folder: Path) -> Path:
    """Return a fresh git checkout of CFGpp, or of the files that stand for it."""
    place = folder / "CFGpp"
    place.mkdir()
    for name in FILES:
        shutil.copy(Path(REAL or FIXTURES) / name, place / name)
    git(place, "init", "-q")
    git(place, "add", ".")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    git(place, *author, "commit", "-q", "-m", "x")
    return place


def published(place: Path) -> set[str]:
    """Return the regions of the fixtures, which stand for CFGpp's; a real one is known."""
    from samplers.dropin.checkout import read_target
    from samplers.dropin.regions import fingerprint

    regions = [read_target(place / name).region for name in FILES]
    return set() if REAL else {fingerprint(text)[:16] for text in regions}


def git(place: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-C", str(place), *args], check=True, capture_output=True, text=True
    ).stdout


def load(path: Path) -> ModuleType:
    """Import a file under a name of its own; its model's constructor becomes `set_up`."""
    spec = importlib.util.spec_from_file_location(f"cfgpp_{next(_count)}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    base = module.StableDiffusion if path.name == FILES[0] else module.SDXL
    base.__init__ = set_up
    return module


def scheduler(steps: int) -> DDIMScheduler:
    made = DDIMScheduler(**SCHEDULE)
    made.set_timesteps(steps)
    return made


def set_up(self, solver_config, *args, dtype: torch.dtype = torch.float32, **kwargs) -> None:
    """Make what CFGpp's constructors make, on the mock network."""
    steps = solver_config.num_sampling
    self.device, self.dtype, self.unet = "cpu", dtype, MockUNet()
    self.default_sample_size = 128
    self.scheduler, self.skip, self.vae_scale_factor = scheduler(steps), 1000 // steps, 8
    self.total_alphas = self.scheduler.alphas_cumprod.clone()
    self.final_alpha_cumprod = self.scheduler.final_alpha_cumprod
    table = torch.cat([torch.tensor([1.0]), self.scheduler.alphas_cumprod])
    self.scheduler.alphas_cumprod = table
    tame(self)


def tame(solver) -> None:
    """Replace texts and pictures, which a sampler only hands on; `solver.decoded` is the latent."""
    solver.get_text_embed = lambda null_prompt, prompt: embeddings(solver.dtype)

    def decode(z: torch.Tensor) -> torch.Tensor:
        solver.decoded = z.detach().float()
        return solver.decoded[:, :3]

    solver.decode = decode


def embeddings(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 3, 2), -0.1, dtype=dtype), torch.full((1, 3, 2), 0.1, dtype=dtype)


def ours(name: str, steps: int):
    """Our own file's solver for `ddim_cfg++` on the mock network."""
    import latent_diffusion
    import latent_sdxl

    cls = {FILES[0]: latent_diffusion, FILES[1]: latent_sdxl}[name].BaseDDIMCFGpp
    solver = cls.__new__(cls)
    vae = torch.nn.Linear(1, 1)
    vae.config = SimpleNamespace(block_out_channels=(1, 1, 1, 1))
    pipe = SimpleNamespace(unet=MockUNet(), vae=vae, scheduler=scheduler(steps))
    config = {"num_sampling": steps}
    loaded = next(base for base in cls.__mro__ if base.__name__ == "LatentModel")  # needs no text
    loaded._adopt(solver, pipe, "mock", config, torch.device("cpu"), torch.float32)
    solver.default_sample_size = 128
    tame(solver)
    return solver


def latents(solver, cfg_guidance: float, callback_fn=None, seed: int = 0) -> torch.Tensor:
    """Sample once from torch's global seed; return the final latent."""
    torch.manual_seed(seed)
    if not hasattr(solver, "reverse_process"):
        solver.sample(cfg_guidance=cfg_guidance, prompt=["", "x"], callback_fn=callback_fn)
        return solver.decoded
    null, cond = embeddings(solver.dtype)
    added = {"text_embeds": torch.zeros(2, 2), "time_ids": torch.zeros(2, 6)}
    with torch.no_grad():
        return solver.reverse_process(
            null, cond, cfg_guidance, added, shape=(512, 512), callback_fn=callback_fn
        )
