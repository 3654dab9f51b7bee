"""Write the card of a trained network: what it is, how it was made, how it ended up."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from torch import nn


def write_card(folder: Path, what: str, model: nn.Module, args: argparse.Namespace) -> None:
    """Write `folder`/card.json from the script's arguments and the last row of loss.csv there."""
    with (folder / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    root = Path(__file__).resolve().parents[1]
    shown = {
        name: os.path.relpath(value, root) if isinstance(value, Path) else value
        for name, value in vars(args).items()
    }
    card = {
        "standin": True,
        "what": what,
        "weights": sum(p.numel() for p in model.parameters()),
        "script": f"python -m standins.{Path(sys.argv[0]).stem}",
        "settings": shown,
        "end of loss.csv": rows[-1] if rows else None,  # a run shorter than the log's interval
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "diffusers", "open_clip_torch")},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
