"""Say, before a long run starts, whether a CUDA device and the model's weights are there.

    python -m eval.preflight --model /path/to/sd15 --script run_sd15.sh

Exits with 0 when both are there, else with 3 and three lines on stderr: what is missing, the state
of the GPU and the state of the weights, each with the command that helps.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from eval.models import MODELS

EXIT_MISSING = 3
TIMEOUT = 5.0  # seconds that the hub has to answer
WEIGHTS = tuple(
    f"unet/diffusion_pytorch_model{variant}.{suffix}"
    for variant in ("", ".fp16")
    for suffix in ("safetensors", "bin")
)


@dataclass(frozen=True)
class Finding:
    """One requirement: `name` for the summary, `text` says what was found or what helps."""

    name: str
    present: bool
    text: str


def check_gpu() -> Finding:
    """Look for a CUDA device that torch can use."""
    name = "a CUDA GPU"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver warns; the three lines say it better
        available = torch.cuda.is_available()
    if available:
        return Finding(name, True, f"ok, {torch.cuda.get_device_name()}")
    if torch.version.cuda is None:
        return Finding(
            name, False, f"torch {torch.__version__} is a CPU build; remove .venv and start again"
        )
    return Finding(
        name,
        False,
        f"torch {torch.__version__} finds none; start this where `nvidia-smi` lists one, "
        f"with a driver for CUDA {torch.version.cuda}",
    )


def check_weights(model: str) -> Finding:
    """Look for a model: a folder in diffusers format, or a hub id in the cache or on the hub.

    Only asks the network for an id that is not cached, and waits TIMEOUT seconds at most.
    """
    name = f"the weights of {model}"
    folder = Path(model)
    if (folder / "model_index.json").is_file():
        return Finding(name, True, f"ok, folder {model}")
    if folder.is_dir():
        remedy = "has no model_index.json; MODEL= takes a folder saved by diffusers"
        return Finding(name, False, f"{model} {remedy}")
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        remedy = "does not exist; set MODEL= to a folder in diffusers format or to a hub id"
        return Finding(name, False, f"{model} {remedy}")
    if _cached(model):
        return Finding(name, True, f"ok, {model} in the hub's cache")
    problem = _problem_on_hub(model)
    if problem is None:
        return Finding(name, True, f"ok, {model} can be downloaded")
    remedy = f"on a connected machine `hf download {model} --local-dir sd`, copy the folder here"
    return Finding(name, False, f"not cached and {problem}; {remedy}, set MODEL=/path/to/sd")


def _cached(model: str) -> bool:
    def has(name: str) -> bool:
        return isinstance(huggingface_hub.try_to_load_from_cache(model, name), str)

    return has("model_index.json") and any(has(name) for name in WEIGHTS)


def _problem_on_hub(model: str) -> str | None:
    """Return why an id cannot be downloaded, or None when it can."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        huggingface_hub.HfApi().model_info(model, timeout=TIMEOUT)
    except GatedRepoError:
        return "gated on the hub (run `hf auth login`)"
    except RepositoryNotFoundError:
        return "unknown to the hub"
    except Exception as error:  # every transport has exceptions of its own; all mean the same here
        return f"the hub is out of reach ({type(error).__name__})"
    return None


def report(script: str, gpu: Finding, weights: Finding) -> list[str]:
    """Return three lines that name what is missing, or none when nothing is."""
    missing = [finding.name for finding in (gpu, weights) if not finding.present]
    if not missing:
        return []
    return [
        f"{script}: missing {' and '.join(missing)}; "
        "`bash run_demo.sh` does the same job here with the stand-in model",
        f"  GPU: {gpu.text}",
        f"  weights: {weights.text}",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.preflight", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="name, folder or hub id, as for `run`")
    parser.add_argument("--script", default="eval", help="name that the first line begins with")
    args = parser.parse_args(argv)
    lines = report(args.script, check_gpu(), check_weights(str(MODELS.get(args.model, args.model))))
    if lines:
        print(*lines, sep="\n", file=sys.stderr)
    return EXIT_MISSING if lines else 0


if __name__ == "__main__":
    sys.exit(main())
