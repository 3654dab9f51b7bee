"""The networks that look at images: an open_clip scorer, InceptionV3 and the exact checker.

Every one of them takes uint8 images (n, h, w, 3) and has a `name` for the reader and an `identity`
(a hash) for caches. Tests put small objects with the same methods in their place.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

STANDINS = Path(__file__).resolve().parent.parent / "standins"
BATCH = 64
_FETCH = "download it once with 'python -m eval prefetch --model sd15 --scorers'"
INCEPTION = (
    "torch-fidelity InceptionV3, 2048 dimensions, its TensorFlow-1 style bilinear resize to 299"
)


class Scorer(Protocol):
    """What features.py needs of a text–image model."""

    name: str
    identity: str

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed uint8 (n, h, w, 3) as float32 (n, d), not normalised."""

    def texts(self, prompts: list[str]) -> np.ndarray:
        """Embed prompts as float32 (n, d), not normalised."""


def hash_files(paths: list[Path]) -> str:
    """Return 16 hex digits over the names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _device(name: str | None) -> torch.device:
    if name is None or name == "mps":  # which has no float64
        name = "cuda" if name is None and torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _in_float32() -> AbstractContextManager:
    """Return a context in which convolutions on CUDA are no TF32, so that features are the CPU's.

    References and caches do not know on which device they were made.
    """
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def check_scorer(spec: str) -> tuple[str, str]:
    """Return open_clip's names of a model and of its weights, the latter "" for a folder's own.

    Raises ValueError for what no scorer can be; nothing is loaded.
    """
    import open_clip

    if spec.startswith("local-dir:") or Path(spec).is_dir():
        folder = Path(spec.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise ValueError(
                f"scorer folder {folder}: no open_clip_config.json there; train it with "
                "'python -m standins.train_clip' or pass --scorer NAME/PRETRAINED"
            )
        return f"local-dir:{folder}", ""
    name, _, weights = spec.partition("/")
    known = open_clip.list_models()
    if name not in known and not spec.startswith("hf-hub:"):
        near = get_close_matches(name, known, n=1)
        raise ValueError(
            f"unknown scorer {spec!r}{f', did you mean {near[0]!r}?' if near else ';'} give a "
            "folder or NAME/PRETRAINED of open_clip, such as ViT-B-16/laion2b_s34b_b88k"
        )
    if weights == "openai" and not name.endswith("quickgelu"):
        raise ValueError(
            f"scorer {spec!r}: OpenAI weights need QuickGELU; use '{name}-quickgelu/openai'"
        )
    return name, weights


class OpenClip:
    """An open_clip model, from a folder (`FOLDER`, `local-dir:FOLDER`) or by `NAME/PRETRAINED`.

    Raises ValueError, in one line, when it cannot be loaded, or when OpenAI's weights would run
    without the QuickGELU that they were trained with (open_clip only warns, scores are then off).
    """

    def __init__(self, spec: str, device: str | None = None) -> None:
        import open_clip

        model_name, pretrained = check_scorer(spec)
        local = model_name.startswith("local-dir:")
        folder = Path(model_name.removeprefix("local-dir:"))

        try:
            model, _, self._preprocess = open_clip.create_model_and_transforms(
                model_name, pretrained=pretrained or None
            )
            self._tokenize = open_clip.get_tokenizer(model_name)
            self._device = _device(device)
            self._model = model.float().eval().to(self._device)
        except Exception as error:  # hub, disk and format errors of three libraries
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ValueError(
                f"scorer {spec!r} could not be loaded ({reason}); {_FETCH}, "
                "or pass --scorer local-dir:FOLDER"
            ) from error
        if local:
            files = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".bin")]
            files = [p for p in files if p.name != "card.json"]
            self.name, self.identity = f"open_clip local-dir {folder.name}", hash_files(files)
        else:
            self.name = f"open_clip {model_name} / {pretrained}"
            self.identity = hashlib.sha256(self.name.encode()).hexdigest()[:16]

    @torch.inference_mode()
    def images(self, pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        parts = []
        for start in range(0, len(pixels), BATCH):
            batch = [self._preprocess(Image.fromarray(p)) for p in pixels[start : start + BATCH]]
            with _in_float32():
                parts.append(self._model.encode_image(torch.stack(batch).to(self._device)).cpu())
        return torch.cat(parts).float().numpy()

    @torch.inference_mode()
    def texts(self, prompts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(prompts), BATCH):
            tokens = self._tokenize(prompts[start : start + BATCH]).to(self._device)
            parts.append(self._model.encode_text(tokens).cpu())
        return torch.cat(parts).float().numpy()


class Inception:
    """torch-fidelity's InceptionV3 features; the weights come from its cache or its download.

    Raises ValueError with the reason when the weights are neither here nor to be had.
    """

    name = INCEPTION
    identity = "inception-2015-12-05-6726825d"

    def __init__(self, device: str | None = None) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import (
            URL_INCEPTION_V3,
            FeatureExtractorInceptionV3,
        )

        file = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
        if os.environ.get("HF_HUB_OFFLINE") == "1" and not file.is_file():
            raise ValueError(
                f"InceptionV3 weights missing and HF_HUB_OFFLINE=1; {_FETCH}, or put {file.name} "
                f"into {file.parent}"
            )
        try:
            net = FeatureExtractorInceptionV3("inception", ["2048"])
            self._device = _device(device)
            self._net = net.to(self._device)
        except Exception as error:  # network and disk errors of torch.hub
            raise ValueError(
                f"InceptionV3 weights could not be loaded ({str(error).splitlines()[0]}); "
                f"{_FETCH}, or put {file.name} into {file.parent}"
            ) from error

    @torch.inference_mode()
    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 (n, 2048) of uint8 (n, h, w, 3)."""
        parts = []
        for start in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(pixels[start : start + BATCH]).permute(0, 3, 1, 2)
            with _in_float32():
                parts.append(self._net(batch.contiguous().to(self._device))[0].cpu())
        return torch.cat(parts).numpy()


class ExactChecker:
    """Reads shapes, colours and places out of a stand-in's pictures and compares with the prompt.

    Raises ValueError with the reason when the checker has not been trained.
    """

    def __init__(self) -> None:
        try:
            from standins.checker import Checker

            self._checker = Checker.load()
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"could not be loaded ({str(error).splitlines()[0]})") from error
        files = [p for p in STANDINS.rglob("checker*") if p.is_file() and p.suffix != ".pyc"]
        for folder in STANDINS.glob("checker*/"):
            files += [p for p in folder.iterdir() if p.is_file()]
        self.identity = hash_files(list(set(files)))

    def verdicts(self, pixels: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Return (n, 2) of 0 or 1: everything promised is there, all pairs are there.

        A prompt outside the stand-in's language gives NaN in both.
        """
        from standins.scenes import keeps, parse

        out = np.full((len(pixels), 2), np.nan, np.float32)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        for start in range(0, len(pixels), BATCH):
            seen = self._checker.read(images[start : start + BATCH])
            for i, objects in enumerate(seen, start):
                try:
                    held = keeps(parse(prompts[i]), objects)
                except ValueError:
                    continue
                out[i] = held["all"], held["pairs"]
        return out
