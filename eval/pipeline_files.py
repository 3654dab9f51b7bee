"""Which files of a pipeline's repository its loader reads, and which are missing from a copy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

WEIGHTS = (".safetensors", ".bin")
# What diffusers takes from a repository's root, and therefore expects offline.
_ROOT = {"config.json", "scheduler_config.json", "pipeline.py", "chat_template.jinja"}
_ROOT |= {"generation_config.json", "preprocessor_config.json", "processor_config.json"}
_ROOT |= {"model_index.json", "tokenizer.json", "tokenizer_config.json"}
_VARIANT = re.compile(r"\.(fp16|bf16|non_ema|ema)(?=[.-])")
_FOREIGN = ("openvino", "flax", "tf_")  # other frameworks' weights


def takes_repaired_vae(index: dict, dtype: str) -> bool:
    """Tell whether the loader replaces the pipeline's VAE, as it does for SDXL in float16."""
    return dtype == "float16" and index.get("_class_name") == "StableDiffusionXLPipeline"


def components(index: dict, dtype: str) -> list[str]:
    """Return the components of a model_index.json that are loaded."""
    skipped = {"safety_checker"} | ({"vae"} if takes_repaired_vae(index, dtype) else set())
    return [n for n, v in index.items() if isinstance(v, list) and all(v) and n not in skipped]


def select(files: Iterable[str], index: dict, dtype: str) -> list[str]:
    """Choose the files of a repository that are read when its pipeline is loaded in a dtype.

    files  every file name of the repository
    index  its model_index.json

    Safetensors, unless a component has none; for float16 the fp16 variant where there is one.
    These are at least the files that diffusers looks for, or it would not load them offline.
    """
    files = list(files)
    inside = {
        part: [f for f in files if f.startswith(f"{part}/") and f.count("/") == 1]
        for part in components(index, dtype)
    }
    weights = {part: [f for f in found if _is_weights(f)] for part, found in inside.items()}
    # The loader takes one format for all components.
    safe = all(any(f.endswith(WEIGHTS[0]) for f in found) for found in weights.values() if found)
    suffix = WEIGHTS[0] if safe else WEIGHTS[1]
    chosen = [f for f in files if f in _ROOT]
    for part, found in inside.items():
        if not weights[part]:  # tokenizer, scheduler, …
            chosen += found
            continue
        chosen += [f for f in found if f.endswith("/config.json")]
        chosen += [f for f in found if f"{suffix}.index." in f]  # of weights in several files
        fitting = [f for f in weights[part] if f.endswith(suffix)]
        half = [f for f in fitting if dtype == "float16" and ".fp16" in f]
        chosen += half or [f for f in fitting if not _VARIANT.search(f)]
    return chosen


def lacking(snapshot: Path, index: dict, dtype: str) -> list[str]:
    """Name the components of a copy that are absent or, after a broken download, incomplete."""

    def is_whole(part: Path) -> bool:
        names = [file.name for file in part.glob("*") if file.exists()]  # no dangling links
        return bool(names) and ("config.json" in names) == any(map(_is_weights, names))

    return [part for part in components(index, dtype) if not is_whole(snapshot / part)]


def _is_weights(file: str) -> bool:
    return file.endswith(WEIGHTS) and not Path(file).name.startswith(_FOREIGN)
