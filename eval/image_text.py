"""Say in a PNG's text chunks how the image was made, and read that back.

Two chunks hold the same facts: "parameters" in the manner of A1111's web UI, which other programs
show and import, and "samplers", everything as JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from eval.images import UNREADABLE

STANDIN = "small stand-in model for tests; not Stable Diffusion"
PROGRAM = "cfgpp-samplers"
# Fact → its name in the "parameters" line; those that A1111 knows come first, under its names.
_LINE = {
    "steps": "Steps",
    "method": "Sampler",
    "scale": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "model": "Model",
    "standin": "Stand-in",
    "grid": "Schedule type",
    "guidance": "Guidance",
    "omega": "Mean omega",
    "nfe": "NFE",
    "options": "Options",
    "image": "Source image",
    "source": "Source prompt",
    "prediction_type": "Prediction",
    "dtype": "Precision",
    "version": "Version",
}


def chunks(facts: Mapping[str, object]) -> dict[str, str]:
    """Return the text chunks of an image; facts that are None are left out.

    facts  prompt, null_prompt, seed, method, scale, nfe, size (width, height), model, standin, …
    """
    known = {name: value for name, value in facts.items() if value is not None}
    return {
        "parameters": _parameters(known),
        "samplers": json.dumps({"program": PROGRAM, **known}, ensure_ascii=False),
    }


def read_chunks(path: Path) -> dict[str, str]:
    """Return all text chunks of a PNG, ours or another program's.

    Raises ValueError for a file that is missing, no PNG, or without text.
    """
    try:
        with Image.open(path) as image:
            image.load()  # chunks may stand behind the pixels
            found = dict(getattr(image, "text", {}))
            kind = image.format
    except FileNotFoundError:
        raise ValueError(f"no file {path}; give a PNG") from None
    except UNREADABLE as error:
        reason = type(error).__name__
        raise ValueError(f"{path} is not a readable image ({reason}); give a PNG") from None
    if not found:
        raise ValueError(f"{path} ({kind}) has no text chunks, so how it was made is not known")
    return found


def version() -> str:
    """Return this project's version, installed or in its checkout."""
    try:
        return importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]


def describe(found: Mapping[str, str]) -> str:
    """Return a PNG's text chunks for a reader: "parameters" as it is, JSON indented."""
    parts = []
    for name, text in found.items():
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if isinstance(value, dict):
            text = json.dumps(value, indent=1, ensure_ascii=False)
        parts.append(f"{name}:\n{text}" if "\n" in text else f"{name}: {text}")
    return "\n".join(parts)


def _parameters(facts: Mapping[str, object]) -> str:
    """Prompt, negative prompt and one line of `Name: value` pairs."""
    shown = {**facts, "version": f"{PROGRAM} {facts['version']}"} if "version" in facts else facts
    if "size" in facts:
        shown = {**shown, "size": "x".join(map(str, facts["size"]))}
    said = [name for name in _LINE if name in shown and shown[name] not in ({}, "")]
    pairs = [f"{_LINE[name]}: {_text(shown[name])}" for name in said if shown[name] is not False]
    negative = facts.get("null_prompt")
    lines = [str(facts.get("prompt", "")), *([f"Negative prompt: {negative}"] if negative else [])]
    return "\n".join([*lines, ", ".join(pairs)])


def _text(value: object) -> str:
    if value is True:
        value = STANDIN
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        value = " ".join(f"{name}={option}" for name, option in value.items())
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:"\n') else text
