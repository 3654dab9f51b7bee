"""Say, before a long run starts, whether a CUDA device and the model's weights are there.

    python -m eval.preflight --model /path/to/sd15 --script run_sd15.sh

Exits with 0 when both are there, else with 3 and three lines on stderr: what is missing, the state
of the GPU and the state of the weights, each with the command that helps.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from eval import hub
from eval.models import MODELS
from eval.pipeline_files import lacking
from eval.prefetch import missing_of_pipeline
from pipelines.places import SINGLE_FILE, places

EXIT_MISSING = 3


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

    An id that has left the hub is looked for at its mirrors. Only asks the network for ids that are
    not cached, and waits hub.TIMEOUT seconds at most for each.
    """
    name = f"the weights of {model}"
    folder = Path(model)
    index_file = folder / "model_index.json"
    if index_file.is_file():
        absent = lacking(folder, json.loads(index_file.read_text(encoding="utf-8")), "float32")
        if not absent:
            return Finding(name, True, f"ok, folder {model}")
        remedy = f"lacks {', '.join(absent)} or a part of it; copy the folder again"
        return Finding(name, False, f"{model} {remedy}")
    if folder.is_file():
        return Finding(name, False, f"{model} is a file; {SINGLE_FILE}")
    if folder.is_dir():
        remedy = "has no model_index.json; MODEL= takes a folder saved by diffusers"
        return Finding(name, False, f"{model} {remedy}")
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        remedy = "does not exist; set MODEL= to a folder in diffusers format or to a hub id"
        return Finding(name, False, f"{model} {remedy}")
    uncached = {place: missing_of_pipeline(place, "float16") for place in places(model)}
    for place, missing in uncached.items():
        if not missing:
            return Finding(name, True, f"ok, {place} in the hub's cache")
    problems = []
    for place, missing in uncached.items():
        problem = hub.problem(place)
        if problem is None:
            return Finding(name, True, f"ok, {place} can be downloaded")
        problems.append(f"{', '.join(missing)} not cached and {problem}")
    remedy = (
        f"where the hub can be reached `python -m eval prefetch --model {model} --scorers`, or "
        f"`hf download {place} --local-dir sd`, copy the folder here, set MODEL=/path/to/sd"
    )
    return Finding(name, False, f"{'; '.join(problems)}; {remedy}")


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
