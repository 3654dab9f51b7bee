"""What the points of a curve must share with one another and with their run, or are refused."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from eval import models
from eval.folder import read_json
from eval.judge import differing, judge_of

PINNED = ("sha256", "revision", "size", "dtype")  # must be the parent's: else it is another model


def same_settings(home: Path, settings: dict) -> None:
    """Raise ValueError where the folder of the points was begun with other settings."""
    before = read_json(home / "settings.json")
    changed = [
        f"{name}: {json.dumps(before[name])}, now {json.dumps(settings[name])}"
        for name in settings
        if before and before.get(name) != settings[name]
    ]
    if changed:
        raise ValueError(
            f"{home} holds a curve with other settings ({'; '.join(changed)}); delete that "
            "folder to start again, or give the same settings to add NFEs"
        )


def model_of(config: dict) -> str:
    """Return where a run's model is; ValueError for a folder, whose path a run does not keep.

    (The folder of a real model may be called like one of our names.)
    """
    if config.get("sha256") and not config["standin"]:
        raise ValueError(
            f"the run's model was a folder called {config['model']!r}; say where it is with --model"
        )
    return config["model"]


def same_model(config: dict, source: models.Source, network: models.Sampler) -> None:
    """Raise ValueError where a loaded model is not the one that drew the run."""
    now = models.fingerprint(source, network.card())
    now |= {"size": list(models.image_size(network)), "dtype": config["dtype"]}
    changed = [n for n in PINNED if n in config and config[n] != now.get(n)]
    if changed:
        raise ValueError(
            f"model {source.label} is not the one of the run ({', '.join(changed)} differ); "
            "give that one as --model"
        )


def same_judge(folder: Path, scored: dict | None, judge: dict, again: Collection[int]) -> None:
    """Raise ValueError where the run, or a point at another NFE than `again`, has another judge."""
    if scored and (changed := differing(judge_of(scored), judge)):
        raise ValueError(
            f"{folder} was scored otherwise ({changed}); give --scorer and --reference as the run "
            "was scored with, or score it again with these"
        )
    for path in scored_points(folder):
        results = read_json(path)
        if results["nfe"] not in again and (changed := differing(judge_of(results), judge)):
            raise ValueError(
                f"NFE {results['nfe']} of {folder / 'curve'} was scored otherwise ({changed}); "
                "give the --scorer and --reference that it was scored with, name it in --nfes to "
                f"score it again, or delete {path.parent}"
            )


def scored_points(folder: Path) -> list[Path]:
    """Return results.json of all NFEs that were scored."""
    return sorted((folder / "curve").glob("nfe*/results.json"))
