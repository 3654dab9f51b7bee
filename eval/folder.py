"""Keep what stands in a run folder beside the images.

    config.json    everything that determines the images; a run resumes only if it is unchanged
    env.json       versions and device: recorded, not compared
    invalid.json   arm key -> [{"file", "reason"}]: images that cannot be scored
    timing.json    arm key -> seconds per image in the last process that drew the arm

One process at a time writes to a folder; there is no lock.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

import torch

from eval.images import write_atomic

# Told in config.json for the reader; the list of prompts itself is what is compared.
INFORMATIVE = ("prompts_file", "prompts_sha256")
PACKAGES = ("diffusers", "transformers", "open_clip_torch", "numpy", "pillow")


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
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; delete it and run again")
    return value


def open_folder(folder: Path, config: dict) -> None:
    """Start a run folder, or resume one whose config is the same.

    A folder in which nothing was drawn yet takes any config.
    Raises ValueError naming the fields that differ, and for a folder that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder as --out")
    path = folder / "config.json"
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    if path.exists():
        differing = differences(read_json(path), config)
        begun = (folder / "invalid.json").exists() or any(folder.glob("images/*/*.png"))
        if differing and begun:
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(differing)}); "
                "give another --out, or the settings of that run to resume it"
            )
        if differing:
            write_json(path, config)
    else:
        # The first write of a killed run leaves only its own temporary file.
        if folder.exists() and any(p.name != "config.json.tmp" for p in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no run; give another --out")
        write_json(path, config)
    for leftover in (*folder.glob("*.tmp"), *folder.glob("images/*/*.tmp")):
        leftover.unlink()


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


def record_environment(folder: Path, device: str) -> str | None:
    """Write env.json; return one line when a resumed run goes on in another environment."""
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
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if kind == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    path = folder / "env.json"
    before = read_json(path)
    earlier = before.pop("earlier", [])
    changed = [name for name in now if before and before.get(name) != now[name]]
    if changed:
        earlier = [*earlier, before]
    write_json(path, {**now, **({"earlier": earlier} if earlier else {})})
    if not changed:
        return None
    return f"note: resumed with another {', '.join(changed)}; bits may differ from earlier images"


class Records:
    """invalid.json and timing.json of one run folder."""

    def __init__(self, folder: Path):
        self._invalid_path, self._timing_path = folder / "invalid.json", folder / "timing.json"
        self.invalid: dict[str, list[dict[str, str]]] = read_json(self._invalid_path)
        self.timing: dict[str, float] = read_json(self._timing_path)
        self._spent: dict[str, tuple[int, float]] = {}  # images and seconds of this process

    def reason(self, key: str, file: str) -> str | None:
        """Return why an image of an arm is invalid, or None."""
        return next((r["reason"] for r in self.invalid.get(key, []) if r["file"] == file), None)

    def replace(self, key: str, files: list[str], reasons: dict[str, str]) -> None:
        """Forget what was recorded about `files` of an arm, record `reasons`, and save."""
        kept = [r for r in self.invalid.get(key, []) if r["file"] not in files]
        kept += [{"file": file, "reason": reason} for file, reason in reasons.items()]
        if kept == self.invalid.get(key, []):
            return
        self.invalid[key] = sorted(kept, key=lambda r: r["file"])
        self.invalid = {k: v for k, v in sorted(self.invalid.items()) if v}
        write_json(self._invalid_path, self.invalid)

    def time(self, key: str, images: int, seconds: float) -> None:
        """Add one batch to an arm's time and save."""
        old_images, old_seconds = self._spent.get(key, (0, 0.0))
        images, seconds = old_images + images, old_seconds + seconds
        self._spent[key] = images, seconds
        self.timing[key] = round(seconds / images, 5)
        write_json(self._timing_path, self.timing)

    def summary(self) -> list[str]:
        """Say how many images of each arm are invalid, one line per arm."""
        lines = []
        for key, records in self.invalid.items():
            reasons = [r["reason"] for r in records]
            counts = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons))
            lines.append(f"{key}: {counts}")
        return lines
