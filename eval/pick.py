"""Pick out of results.json what a figure or a table shows: cells by arm, a strength, a rival."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.folder import read_json


def by_arm(results: dict) -> dict[str, list[dict]]:
    """Return each arm's cells that hold images, ordered by omega; arms in the order of `cells`."""
    arms: dict[str, list[dict]] = {}
    for key, cell in results["cells"].items():
        arms.setdefault(cell["arm"], [])
        if cell["n"]:
            arms[cell["arm"]].append({**cell, "key": key})
    return {arm: sorted(cells, key=lambda c: c["omega"]) for arm, cells in arms.items()}


def damaged(results: dict) -> set[str]:
    """Return the arms with an image that cannot be scored: they are compared nowhere."""
    return {cell["arm"] for cell in results["cells"].values() if not cell["valid"]}


def has(results: dict, name: str) -> bool:
    """Tell whether any cell holds a number `name`; files of earlier versions may lack it."""
    return any(cell.get(name) is not None for cell in results["cells"].values())


def nearest(cells: Sequence[dict], omega: float) -> dict | None:
    """Return the cell whose guidance strength is closest to `omega`."""
    return min(cells, key=lambda cell: abs(cell["omega"] - omega), default=None)


def usual_omega(results: dict) -> float:
    """Return the strength that pictures are shown at: the middle one of the focus arm's scales.

    Not the one with the best FID: with few prompts that is often hardly any guidance.
    """
    arms = by_arm(results)
    cells = arms[results["focus"]] or [cell for found in arms.values() for cell in found]
    return cells[len(cells) // 2]["omega"]


def best_baseline(results: dict) -> str | None:
    """Return the arm that the focus arm has to beat.

    The one with the best FID at the middle matched CLIP level, else with the lowest FID, else with
    the highest CLIP; None without other arms. Arms with invalid images come last, approximated
    ones before them.
    """
    arms = {a: c for a, c in by_arm(results).items() if c and a != results["focus"]}
    arms = {a: c for a, c in arms.items() if all(cell["valid"] for cell in c)} or arms
    arms = {a: c for a, c in arms.items() if not c[0].get("approximation")} or arms
    table = results["matched"]["clip"]
    if table:
        values = table[len(table) // 2]["values"]
        found = [arm for arm in arms if values.get(arm) is not None]
        if found:
            return min(found, key=values.__getitem__)
    with_fid = {a: [c["fid"] for c in cells if c["fid"] is not None] for a, cells in arms.items()}
    if any(with_fid.values()):
        return min((a for a in arms if with_fid[a]), key=lambda a: min(with_fid[a]))
    return max(arms, key=lambda a: max(c["clip"] for c in arms[a]), default=None)


def load_scored(folder: Path, config: dict) -> dict:
    """Read results.json, with cells and arms, which it sorts by name, in the order of the run.

    Raises ValueError when the folder was not scored, or by a version that measured less.
    """
    results = read_json(folder / "results.json")
    if not results:
        raise ValueError(f"{folder}: no results.json there; run 'python -m eval score' on it first")
    if "front" not in results:
        raise ValueError(
            f"{folder}: results.json is of an earlier version; run 'python -m eval score' again"
        )
    new = [arm["key"] for arm in config["arms"] if arm["key"] not in results["cells"]]
    if new:
        raise ValueError(
            f"{folder}: {new[0]} was drawn after the last scoring; run 'python -m eval score' again"
        )
    results["cells"] = {arm["key"]: results["cells"][arm["key"]] for arm in config["arms"]}
    arms = dict.fromkeys(arm["arm"] for arm in config["arms"])
    for name in ("verdict", "front"):
        for at, found in results[name].items():
            results[name][at] = {arm: found[arm] for arm in arms if arm in found}
    return results
