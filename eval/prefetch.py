"""Download what a run needs, and nothing else: `python -m eval prefetch`.

Afterwards HF_HUB_OFFLINE=1 works. Of a pipeline's repository only the components that the loader
uses are taken, as safetensors, and for float16 in half precision where the repository has that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import huggingface_hub
import torch

from eval import hub
from eval.extractor import SCORER, SECOND
from eval.models import Source
from eval.pipeline_files import lacking, select, takes_repaired_vae
from pipelines.places import FP16_VAE, places


@dataclass(frozen=True)
class Parcel:
    """Files of one hub repository, or one file of the web.

    place  hub id or URL
    files  name → bytes; 0 where the size is not known
    here   names of those that are on this machine
    """

    place: str
    files: dict[str, int]
    here: frozenset[str]

    @property
    def missing(self) -> int:
        """Bytes that are still to be downloaded."""
        return sum(size for name, size in self.files.items() if name not in self.here)

    @property
    def complete(self) -> bool:
        return self.here >= self.files.keys()

    def __str__(self) -> str:
        count, total = len(self.files), shown_bytes(sum(self.files.values()))
        state = f"{shown_bytes(self.missing)} to download" if self.missing else "to download"
        state = "all here" if self.complete else state
        return f"{self.place}: {count} file{'s' * (count > 1)}, {total}, {state}"


def needed(source: Source, dtype: str, scorers: bool) -> list[Parcel]:
    """List what a run of this model needs, by asking the hub.

    dtype    that it will run in; "float16" on CUDA devices
    scorers  whether the default scorers of `eval score` are wanted, too
    Raises OSError in one line when neither the id nor a mirror can be had.
    """
    parcels = [] if Path(source.key).is_dir() else _pipeline(source.key, dtype)
    if scorers and not source.standin:  # a stand-in's scorers are in the checkout
        parcels += [_clip(SCORER), _clip(SECOND), _inception()]
    return parcels


def missing_offline(source: Source, dtype: str, scorers: bool) -> list[str]:
    """Name what a run needs and the caches lack, without asking the network."""
    missing = []
    if not Path(source.key).is_dir():
        problems = [missing_of_pipeline(place, dtype) for place in places(source.key)]
        if all(problems):
            missing += problems[0]
    if scorers and not source.standin:
        for place, names in map(clip_files, (SCORER, SECOND)):
            if not any(hub.cached(place, name) for name in names):
                missing.append(place)
        if not inception_file().is_file():
            missing.append(inception_file().name)
    return missing


def fetch(parcel: Parcel) -> None:
    """Download a parcel's missing files; started again, it goes on where it stopped."""
    try:
        if "://" in parcel.place:
            target = inception_file()
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(parcel.place, str(target))
        else:
            # By branch, not by commit: only so is the branch's name known offline.
            huggingface_hub.snapshot_download(parcel.place, allow_patterns=list(parcel.files))
    except Exception as error:  # network and disk errors of several libraries
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"downloading {parcel.place} stopped ({first}); the same command goes on"
        ) from None


def _pipeline(key: str, dtype: str) -> list[Parcel]:
    reasons = []
    for place in places(key):
        try:
            sizes = hub.sizes(place)
            index_file = huggingface_hub.hf_hub_download(place, "model_index.json")
        except Exception as error:  # every transport has exceptions of its own
            reasons.append(f"{place}: {hub.reason(error)}")
            continue
        index = json.loads(Path(index_file).read_text(encoding="utf-8"))
        parcels = [_parcel(place, select(sizes, index, dtype), sizes)]
        return parcels + ([_vae()] if takes_repaired_vae(index, dtype) else [])
    raise OSError(f"cannot list the files of {key} ({'; '.join(reasons)})")


def missing_of_pipeline(place: str, dtype: str) -> list[str]:
    """Name what the hub's cache lacks of one pipeline; empty when it can be loaded offline."""
    index_file = hub.cached(place, "model_index.json")
    if index_file is None:
        return [place]
    index = json.loads(Path(index_file).read_text(encoding="utf-8"))
    missing = [f"{place}/{part}" for part in lacking(Path(index_file).parent, index, dtype)]
    if takes_repaired_vae(index, dtype):
        place, names = vae_files()
        missing += [] if all(hub.cached(place, name) for name in names) else [place]
    return missing


def _vae() -> Parcel:
    place, names = vae_files()
    return _parcel(place, names, _listed(place))


def _clip(spec: str) -> Parcel:
    place, names = clip_files(spec)
    sizes = _listed(place)
    return _parcel(place, [next((n for n in names if n in sizes), names[0])], sizes)


def _inception() -> Parcel:
    url, file = inception_url(), inception_file()
    if file.is_file():
        return Parcel(url, {file.name: file.stat().st_size}, frozenset({file.name}))
    try:
        with urlopen(Request(url, method="HEAD"), timeout=hub.TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length", 0))
    except (OSError, ValueError):
        size = 0
    return Parcel(url, {file.name: size}, frozenset())


def _listed(place: str) -> dict[str, int]:
    try:
        return hub.sizes(place)
    except Exception as error:  # every transport has exceptions of its own
        raise OSError(f"cannot list the files of {place} ({hub.reason(error)})") from None


def _parcel(place: str, names: list[str], sizes: dict[str, int]) -> Parcel:
    here = frozenset(name for name in names if hub.cached(place, name))
    return Parcel(place, {name: sizes.get(name, 0) for name in names}, here)


def vae_files() -> tuple[str, list[str]]:
    """Return the repository and the files of the VAE that SDXL takes in float16."""
    return FP16_VAE, ["config.json", "diffusion_pytorch_model.safetensors"]


def clip_files(spec: str) -> tuple[str, list[str]]:
    """Return a scorer's repository and the files that open_clip tries there, in order."""
    from open_clip.pretrained import get_pretrained_cfg

    place = get_pretrained_cfg(*spec.split("/"))["hf_hub"].rstrip("/")
    return place, ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def inception_url() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return URL_INCEPTION_V3


def inception_file() -> Path:
    """Return where torch-fidelity looks for InceptionV3's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / inception_url().rsplit("/", 1)[-1]


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def shown_bytes(size: int) -> str:
    """Write a size in decimal units; 0 stands for one that is not known."""
    if size == 0:
        return "size not known"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
