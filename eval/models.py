"""Find the models that can be evaluated, and load them.

A model is a name from `MODELS`, a folder in the diffusers format, or a hub id `owner/name`.
A folder whose `card.json` says {"standin": true} is a stand-in: a small model trained for tests,
whose scores are never scores of Stable Diffusion; the run folder carries that mark.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import try_to_load_from_cache

from eval.folder import read_json
from pipelines.places import MODELS, ROOT, SINGLE_FILE

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt")


class Sampler(Protocol):
    """What is used of a loaded model: `latent_diffusion.StableDiffusion`, or a test's double."""

    schedule: object
    evaluations: int
    unet: object
    vae: object

    def generate(
        self, plan: object, prompts: list[str], seeds: list[int], null_prompt: str = ""
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def card(self) -> dict: ...


@dataclass(frozen=True)
class Source:
    """Where a model comes from, before it is loaded.

    label    its name in config, images and reports
    key      folder or hub id, what diffusers loads
    standin  whether scores must be stamped as those of a stand-in
    """

    label: str
    key: str
    standin: bool

    @property
    def default_batch(self) -> int:
        return 50 if self.standin else 8


def find(name: str) -> Source:
    """Resolve a model name, folder or hub id without loading anything.

    Raises ValueError for an unknown name, a folder that is not there and one without a pipeline.
    """
    place = MODELS.get(name, name)
    folder = Path(place)
    if isinstance(place, Path) and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"model {name!r} is not here: no {shown(folder)}/model_index.json; take a complete "
            "checkout, or train it as standins/README.md says"
        )
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(
                f"no model_index.json in {name}; "
                "give a folder in the diffusers format (model_index.json, unet/, vae/, …)"
            )
        label = name if name in MODELS else folder.resolve().name
        standin = bool(read_json(folder / "card.json").get("standin", name.startswith("standin-")))
        return Source(label, str(folder), standin)
    if folder.is_file():
        raise ValueError(f"model {name!r} is a file; {SINGLE_FILE}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or name.startswith((".", "/", "~")):
        near = get_close_matches(name, MODELS, n=1, cutoff=0.5)
        raise ValueError(
            f"unknown model {name!r}{f', did you mean {near[0]!r}?' if near else ';'} give one of "
            f"{', '.join(MODELS)}, an existing folder in the diffusers format or a hub id such as "
            "owner/name"
        )
    return Source(name, place, standin=False)


def choose_device(name: str | None, local: int | None = None) -> str:
    """Return `name` if torch can use it; by default cuda, else mps, else cpu.

    local  number of this process among several on one machine: each takes a CUDA device of its
           own, unless `name` has a number
    """
    if local is not None and name in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{local % torch.cuda.device_count()}"
    if name is None:
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises any of them
        raise ValueError(
            f"cannot use device {name!r} with torch {torch.__version__} here; give cpu, or one of "
            "cuda, cuda:1, mps where there is such a device"
        ) from None
    return name


def choose_dtype(name: str | None, source: Source, device: str) -> str:
    """Return a dtype's name: float16 on CUDA and float32 elsewhere and for stand-ins by default."""
    if name is None:
        return "float16" if device.startswith("cuda") and not source.standin else "float32"
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; give one of {', '.join(DTYPES)}")
    return name


def load(
    source: Source,
    nfe: int,
    device: str,
    dtype: str,
    solver: str | None = None,
    checkpoint: Path | None = None,
) -> Sampler:
    """Load a model with the class that its pipeline needs, and say on stderr what was loaded.

    nfe         what its own scheduler is set to; plans carry their own
    solver      a name of the model's `get_solver`; without it the plain model, which runs plans
    checkpoint  a distilled UNet, for the solvers whose names end in _lightning
    Raises OSError, in one line with the remedy, when the weights are not to be had.
    """
    from pipelines.loading import pipeline_kind

    kind = pipeline_kind(source.key)
    places: dict[str, object] = {"model_key": source.key}
    if kind == "sdxl":
        import latent_sdxl as family

        plain, precision = family.SDXL, "dtype"
        if checkpoint:
            places = {"base_model_key": source.key, "light_model_ckpt": checkpoint}
    else:
        import latent_diffusion as family

        plain, precision = family.StableDiffusion, "pipe_dtype"
        if checkpoint:
            raise ValueError(f"model {source.label!r} is no SDXL, which --checkpoint is for")
    places |= {"solver_config": {"num_sampling": nfe}, "device": device, precision: DTYPES[dtype]}
    model = family.get_solver(solver, **places) if solver else plain(**places)
    card = model.card()
    width, height = image_size(model)
    print(
        f"loaded {source.label} ({shown(card['model_key'])}): {plain.__name__}, "
        f"{card['prediction_type'].removesuffix('_prediction')}-prediction, "
        f"{width}×{height}, {dtype} on {device}"
        + (", a small stand-in, not Stable Diffusion" if source.standin else ""),
        file=sys.stderr,
    )
    return model


def ask(solver: Sampler, texts: Sequence[str | Sequence[str]], **options: object) -> torch.Tensor:
    """Call a solver's `sample` with [null prompt, prompt, …], under the name that it has there."""
    name = "prompt1" if hasattr(solver, "reverse_process") else "prompt"  # SDXL, else SD
    return solver.sample(**{name: list(texts)}, **options)


def image_size(sd: Sampler) -> tuple[int, int]:
    """Return the (width, height) in pixels that a model was trained for, and draws by default."""
    size = sd.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    factor = 2 ** (len(sd.vae.config.block_out_channels) - 1)
    return width * factor, height * factor


def fingerprint(source: Source, card: dict) -> dict[str, str | None]:
    """Identify the weights: a sha256 over the files of a folder, or the revision on the hub.

    The digest covers the components that model_index.json names, and neither card nor figures.
    """
    folder = Path(source.key)
    if not folder.is_dir():
        return {"sha256": None, "revision": _revision(card["model_key"])}
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    components = [n for n, v in index.items() if isinstance(v, list) and any(v)]
    files = [folder / "model_index.json"]
    for name in components:
        files += [f for pattern in _WEIGHTS for f in (folder / name).glob(pattern)]
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {inner}\n".encode())
    return {"sha256": digest.hexdigest(), "revision": None}


def _revision(hub_id: str) -> str:
    """Return owner/name@commit; the hub's cache keeps files under snapshots/<commit>/."""
    cached = try_to_load_from_cache(hub_id, "model_index.json")
    return f"{hub_id}@{Path(cached).parent.name if isinstance(cached, str) else 'unknown'}"


def shown(place: Path | str) -> str:
    """Show a folder of this checkout relative to it, any other place as it is."""
    return str(Path(place).relative_to(ROOT) if Path(place).is_relative_to(ROOT) else place)
