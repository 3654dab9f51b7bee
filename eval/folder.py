"""Keep what stands in a run folder beside the images.

config.json                everything that determines the images; arms may join, the rest stays
env.json, env-<rank>.json  versions and device of each process: recorded, not compared
run.lock                   empty unless a run is drawing (eval.lock)
invalid/, timing*.json     what was found out about the images (eval.records)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from eval.images import write_atomic
from eval.lock import FILE as LOCK

# Told in config.json for the reader; the list of prompts itself is what is compared.
INFORMATIVE = ("prompts_file", "prompts_sha256")
PACKAGES = ("diffusers", "transformers", "accelerate", "open_clip_torch", "numpy", "pillow")
CODE = ("samplers", "pipelines")  # what turns a plan into an image


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, the same bytes for the same value."""
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """Read a JSON object; a missing file is an empty one. Raises ValueError when it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_remedy(path)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; {_remedy(path)}")
    return value


def _remedy(path: Path) -> str:
    """Say what to do about a damaged file; without its configuration a run is not one any more."""
    if path.name == "config.json":
        return f"delete the folder {path.parent} and run again, or bring the file back"
    return "delete it and run again"


def check_folder(folder: Path) -> None:
    """Raise ValueError for a place where no run can be: a file, or a folder with other things."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder as --out")
    if not folder.exists() or (folder / "config.json").exists():
        return
    # A run that was killed at its first write leaves these.
    if any(p.name != LOCK and p.suffix != ".tmp" for p in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run; give another --out")


def open_folder(folder: Path, config: dict) -> dict:
    """Start a run folder, or resume one whose config is the same; return its whole config.

    An image follows from its own arm's entry and from what is not about arms. New arms and scales
    therefore join those that are there, and arms that are not asked for stay as they are. A folder
    in which nothing was drawn yet takes any config.
    Raises ValueError naming the fields that differ.
    """
    path = folder / "config.json"
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    old = read_json(path)
    if any(folder.glob("images/*/*.png")) or any(folder.glob("invalid*")):
        shared = {a["key"] for a in old["arms"]} & {a["key"] for a in config["arms"]}
        differing = differences(_only(old, shared), _only(config, shared))
        if differing:
            fixed = any(found.startswith(("seeds", "prompts", "batch")) for found in differing)
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(differing)}); "
                "give another --out, or the settings of that run to resume it"
                + (": arms and scales may join a run, seeds and prompts may not" if fixed else "")
            )
        config = {**old, "arms": joined(old["arms"], config["arms"])}
    if config != old:
        write_json(path, config)
    return config


def sweep(folder: Path) -> None:
    """Remove what killed writes left; only for a process that is alone in the folder."""
    for pattern in ("*.tmp", "images/*/*.tmp", "invalid/*/*.tmp"):
        for leftover in folder.glob(pattern):
            leftover.unlink()


def joined(old: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """Return old arms with new ones: each after the last strength of its sampler, or at the end."""
    arms = list(old)
    for arm in new:
        if any(arm["key"] == a["key"] for a in arms):
            continue
        mates = [i for i, a in enumerate(arms) if a["arm"] == arm["arm"]]
        arms.insert(mates[-1] + 1 if mates else len(arms), arm)
    return arms


def _only(config: dict, keys: set[str]) -> dict:
    """Return a config with these arms alone, by key."""
    arms = sorted((a for a in config["arms"] if a["key"] in keys), key=lambda a: a["key"])
    return {**config, "arms": arms}


def differences(old: dict, new: dict) -> list[str]:
    """Name the fields in which two configs differ, with short values where that helps."""
    found = []
    for name in {**old, **new}:
        a, b = old.get(name), new.get(name)
        if a == b or name in INFORMATIVE:
            continue
        if name == "arms" and a and b:
            found.append(_arms_difference(a, b))
        elif isinstance(a, list | dict) or isinstance(b, list | dict):
            sizes = f": {len(a)}, now {len(b)}" if a and b and len(a) != len(b) else ""
            found.append(f"{name} differ{sizes}")
        else:
            found.append(f"{name}: {json.dumps(a)}, now {json.dumps(b)}")
    return found


def _arms_difference(old: list[dict], new: list[dict]) -> str:
    before, now = {a["key"]: a for a in old}, {a["key"]: a for a in new}
    gone, added = [k for k in before if k not in now], [k for k in now if k not in before]
    changed = [k for k in now if k in before and now[k] != before[k]]
    parts = [
        f"{what} {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
        for what, keys in (("without", gone), ("with", added), ("another plan for", changed))
        if keys
    ]
    return "arms: now " + ", ".join(parts or ["in another order"])


def record_environment(path: Path, device: str) -> str | None:
    """Write a process's environment; return one line when a resumed run goes on in another."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    kind = torch.device(device).type
    now = {
        "python": platform.python_version(),
        "torch": torch.__version__,  # names the CUDA build too
        **versions,
        "code": code_digest(),
        "device": kind,
        "device_name": torch.cuda.get_device_name(device) if kind == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    before = read_json(path)
    earlier = before.pop("earlier", [])
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        earlier = [*earlier, before]
    write_json(path, {**now, **({"earlier": earlier} if earlier else {})})
    if not changed:
        return None
    return f"note: resumed with another {', '.join(changed)}; bits may differ from earlier images"


def code_digest() -> str:
    """Return 16 hex digits that change with the Python files that turn a plan into an image."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(f for part in CODE for f in (root / part).glob("*.py"))
    files += sorted(root.glob("latent_*.py"))
    joined = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(joined).hexdigest()[:16]
