"""Find the models that can be evaluated, and load them.

A model is a name from `MODELS`, a folder in the diffusers format, or a hub id `owner/name`.
A folder whose `card.json` says {"standin": true} is a stand-in: a small model trained for tests,
whose scores are never scores of Stable Diffusion; the run folder carries that mark.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import try_to_load_from_cache

from eval.folder import read_json

ROOT = Path(__file__).resolve().parents[1]
MODELS: dict[str, Path | str] = {  # folder beside this package, or hub id
    "standin-sd15": ROOT / "standins" / "sd15",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
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
            f"model {name!r} is not here: no {_shown(folder)}/model_index.json; take a complete "
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
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or name.startswith((".", "/", "~")):
        raise ValueError(
            f"unknown model {name!r}; give one of {', '.join(MODELS)}, an existing folder in the "
            "diffusers format or a hub id such as owner/name"
        )
    return Source(name, place, standin=False)


def choose_device(name: str | None) -> str:
    """Return `name` if torch can use it; by default cuda, else mps, else cpu."""
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


def load(source: Source, nfe: int, device: str, dtype: str) -> Sampler:
    """Load a model; `nfe` is what its own scheduler is set to, the plans carry their own.

    Raises OSError, in one line with the remedy, when the weights are not to be had.
    """
    from latent_diffusion import StableDiffusion

    return StableDiffusion(
        {"num_sampling": nfe}, model_key=source.key, device=device, pipe_dtype=DTYPES[dtype]
    )


def image_size(sd: Sampler) -> tuple[int, int]:
    """Return the (width, height) in pixels that a model was trained for, and draws by default."""
    side = sd.unet.config.sample_size * 2 ** (len(sd.vae.config.block_out_channels) - 1)
    return side, side


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


def _shown(folder: Path) -> str:
    """Show a folder of this checkout relative to it."""
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)
