"""What a search has measured so far, in one file that a kill cannot damage.

A search is a fixed sequence of decisions given its seed and these measurements. Started again, it
makes the same decisions and finds what was measured here: nothing else has to be restored.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from eval.folder import differences, read_json, write_json
from eval.search.objectives import Measured

FILE = "evaluations.json"


class Journal:
    """Measurements of one search by candidate and block, kept in `folder`/evaluations.json.

    config  what decides the measurements; a folder of another config is refused
    Raises ValueError naming the fields that differ, and for a folder that holds something else.
    """

    def __init__(self, folder: Path, config: dict):
        if folder.is_file():
            raise ValueError(f"{folder} is a file; give a folder as --out")
        self.path = folder / FILE
        held = read_json(self.path)
        others = folder.is_dir() and any(f.name != f"{FILE}.tmp" for f in folder.iterdir())
        if not held and others:
            raise ValueError(f"{folder} is not empty and holds no search; give another --out")
        made = folder.is_dir() and any(not f.name.startswith(FILE) for f in folder.iterdir())
        if not held.get("measured") and not made:  # it failed before its first measurement
            held = {}
        changed = differences(held["config"], config) if held else []
        if changed:
            raise ValueError(
                f"{folder} holds a search with other settings ({'; '.join(changed)}); give "
                "another --out, or the settings of that search to resume it"
            )
        self._data = held or {"config": config, "measured": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self._save()

    def find(self, key: str) -> Measured | None:
        entry = self._data["measured"].get(key)
        return None if entry is None else Measured(**entry)

    def add(self, key: str, measured: Measured) -> None:
        """Keep a measurement; it is on the disk when this returns."""
        self._data["measured"][key] = asdict(measured)
        self._save()

    def _save(self) -> None:
        write_json(self.path, self._data)


def key_of(text: str, start: int, count: int) -> str:
    """Name a measurement: what was measured, on rows start … start + count − 1."""
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}@{start}+{count}"
