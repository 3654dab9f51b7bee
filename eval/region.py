"""Take class BaseDDIMCFGpp from any file, CFGpp's or ours, and run it as an arm.

Only the class is executed, on a model that is loaded already, with the names that CFGpp's file
offers it: the rest of the file is neither imported nor needed. It gets the start noise of every
other arm, and network calls are counted on the network itself.
"""

from __future__ import annotations

import ast
import hashlib
import math
import traceback
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import samplers
from pipelines.first_latent import SIGMAS, kdiffusion_scale
from pipelines.kdiffusion import append_zero, get_ancestral_step, get_sigmas_karras
from samplers import generators, standard_normal
from samplers.dropin.checkout import Target, find_files, read_target
from samplers.dropin.regions import CLASS, FILES
from samplers.guidance import mean_bell
from samplers.noise import seed_of

UNITS = ("lambda", "omega")


class _Quiet(tqdm):
    """tqdm without its bars: a run has one of its own."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **(kwargs | {"disable": True}))


@dataclass
class Region:
    """One region at one strength.

    cfg_guidance  what the class is given
    omega         the same in CFG units
    """

    sd: Any
    target: Target
    cfg_guidance: float
    omega: float
    nfe: int

    def describe(self) -> dict[str, object]:
        """Say what determines the images: the class, and `samplers` where it imports that."""
        text = self.target.region
        digests = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
        if "samplers" in text:
            folder = Path(samplers.__file__).parent
            files = sorted(folder.glob("*.py"))
            joined = b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)
            digests["samplers_sha256"] = hashlib.sha256(joined).hexdigest()
        region = {"base": self.target.base, **digests}
        return {"scale": self.cfg_guidance, "omega": self.omega, "region": region}

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final latents and images (N, 3, H, W) in [0, 1] on the CPU, as `generate` does.

        Noise that the class draws from torch's global generator follows from the seeds alone.
        Raises ValueError, in one line with file and line number, for whatever fails in the class,
        for images of another shape, and for another number of network calls than `nfe`.
        """
        z_T = standard_normal((len(seeds), *self.sd.latent_shape), generators(seeds))
        solver, decoded = self._solver(z_T.to(self.sd.device))
        devices = [self.sd.device] if self.sd.device.type == "cuda" else []
        counter = _Counter()
        handle = self.sd.unet.register_forward_pre_hook(counter, with_kwargs=True)
        try:
            with torch.random.fork_rng(devices), warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.manual_seed(seed_of(repr(list(seeds)).encode()))
                images = self._sample(solver, list(prompts))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(self._where(error)) from error
        finally:
            handle.remove()
        self._count(counter, len(seeds))
        side = self.sd.vae_scale_factor
        due = (len(seeds), 3, *(n * side for n in z_T.shape[2:]))
        if getattr(images, "shape", None) != due:
            returned = tuple(getattr(images, "shape", ())) or type(images).__name__
            raise ValueError(
                f"{self.target.path}: the region returned {returned}, not images {due}"
            )
        images = images.float().cpu()
        return (decoded[-1] if decoded else images), images

    def _sample(self, solver: Any, prompts: list[str]) -> Any:
        texts = [[""] * len(prompts), prompts]
        name = "prompt" if self.target.base == "StableDiffusion" else "prompt1"
        return solver.sample(cfg_guidance=self.cfg_guidance, **{name: texts})

    def _count(self, counter: _Counter, images: int) -> None:
        """A guided evaluation is one call with two rows per image."""
        spent = max(counter.calls, math.ceil(counter.rows / (2 * images)))
        if spent != self.nfe:
            raise ValueError(
                f"{self.target.path}: the region called the network {counter.calls} times with "
                f"{counter.rows} rows for {images} images; at --nfe {self.nfe} it must make "
                f"{self.nfe} calls of at most {2 * images} rows each, so it is not compared"
            )

    def _solver(self, z_T: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
        """Execute the class on top of the loaded model; also return what it decodes."""
        sd, decoded = self.sd, []

        class Loaded(type(sd)):
            """The loaded model: nothing is loaded again, and every image has its own noise."""

            def __init__(self, *args: Any, **kwargs: Any):
                self.__dict__.update(sd.__dict__)

            def initialize_latent(self, method: str = "random", src_img=None, **kwargs: Any):
                if method == "random_kdiffusion":
                    return z_T * kdiffusion_scale(kwargs.get("sigmas", SIGMAS))
                if method != "random":
                    raise ValueError(
                        f"initialize_latent({method!r}) needs an image; an arm has none"
                    )
                return z_T.clone()

            def decode(self, zt: torch.Tensor) -> torch.Tensor:
                decoded.append(zt.detach().float().cpu())
                return super().decode(zt)

        names = {
            "torch": torch,
            "tqdm": _Quiet,
            "Callable": Callable,
            **{name: getattr(typing, name) for name in ("Any", "Dict", "Optional", "Tuple")},
            "register_solver": lambda name: lambda cls: cls,
            "append_zero": append_zero,
            "get_ancestral_step": get_ancestral_step,
            "get_sigmas_karras": get_sigmas_karras,
            self.target.base: Loaded,
            "SDXLLightning": type("SDXLLightning", (), {}),
            "__name__": "region",
        }
        tree = ast.parse(self.target.data)
        tree.body = [n for n in tree.body if getattr(n, "name", None) == CLASS]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # CFGpp's autocast warns without CUDA
                exec(compile(tree, str(self.target.path), "exec"), names)
            return names[CLASS]({"num_sampling": self.nfe}), decoded
        except Exception as error:
            raise ValueError(self._where(error)) from error

    def _where(self, error: Exception) -> str:
        """Name the line of the region's file that failed, and what failed there."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(self.target.path)]
        at = f", line {lines[-1]}" if lines else ""
        hint = ""
        if isinstance(error, NameError):
            hint = (
                "; a region is run without the rest of its file: it has torch, tqdm and CFGpp's "
                "names, and may import what it needs inside its functions"
            )
        text = " ".join(str(error).split())
        return f"{self.target.path}{at}: {type(error).__name__}: {text}{hint}"


class _Counter:
    """Counts calls of the UNet, and the rows in them."""

    def __init__(self) -> None:
        self.calls = self.rows = 0

    def __call__(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        z = args[0] if args else kwargs["sample"]
        self.calls, self.rows = self.calls + 1, self.rows + len(z)


def load_region(
    sd: Any,
    path: str,
    nfe: int,
    omega: float | None,
    scale: float | None,
    units: str = "lambda",
) -> Region:
    """Read a file's region, or that of a checkout for this kind of model, and set its strength.

    omega, scale  one of them: ω in CFG units, or `cfg_guidance` itself
    units         what cfg_guidance is to the region: CFG++'s "lambda", for which it is given
                  ω/mean_bell(schedule), or CFG's "omega", for which it is given ω
    Raises ValueError for a file without one readable class, and for a model of the other kind.
    """
    if units not in UNITS:
        raise ValueError(f"units={units!r}; give units=lambda or units=omega")
    kinds = [base.__name__ for base in type(sd).__mro__]
    place = Path(path)
    if place.is_dir():
        place = place / FILES["SDXL" if "SDXL" in kinds else "StableDiffusion"]
    (file,) = find_files(place)
    target = read_target(file)
    if target.base not in kinds:
        raise ValueError(
            f"{path}: the region is for {target.base}, and the model is a {type(sd).__name__}; "
            "give the other file's region, or another --model"
        )
    unit = mean_bell(sd.schedule) if units == "lambda" else 1.0
    value = scale if omega is None else omega / unit
    return Region(sd, target, value, value * unit, nfe)
