"""Compare the focus arm with the others: along fronts, at equal scale, and at its default scale."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt

import numpy as np

from eval.cells import Cell
from eval.front import NO_FID, OUT, Curve, compare_fronts, matched, straight
from eval.statistics import INVALID, difference, judge
from samplers.registry import available

FOCUS = "exp2m_cfg++"  # the arm that this project is about, when a run has it and no region
MEASURES = ("clip", "clip2", "fid", "all_right")  # compared between arms at given scales
NEAR = 1.25  # a run's scale within this factor of a sampler's default stands for it


def comparisons(cells: Mapping[str, Cell]) -> dict:
    """Return what results.json says about the focus arm against every other arm.

    An arm with a cell that lacks an image, or holds one that cannot be scored, is invalid: it gets
    that verdict everywhere and no differences; a focus arm like that makes all verdicts invalid.
    An approximated arm spends less than the run's NFE: it is compared at equal scale, where what
    it loses shows, and with an exact focus arm nowhere else, since beating it would prove nothing.
    """
    every, cells = cells, _exact(cells)
    arms = list(dict.fromkeys(cell.entry["arm"] for cell in cells.values()))
    regions = [cell.entry["arm"] for cell in cells.values() if cell.entry["sampler"] == "region"]
    focus = next(iter(regions), FOCUS if FOCUS in arms else arms[-1])
    bad = _bad(every)
    lines = {} if focus in bad else curves(cells, bad)
    unmeasured = OUT if any(cell.entry["fid"] is not None for cell in cells.values()) else NO_FID
    outside = {
        arm: {"verdict": INVALID if arm in bad or focus in bad else unmeasured}
        for arm in arms
        if arm != focus and arm not in lines
    }
    fronts = {at: compare_fronts(lines, focus, at, outside) for at in ("clip", "fid")}
    order = [arm for arm in arms if arm != focus]
    return {
        "focus": focus,
        "front": {at: {arm: found[arm] for arm in order} for at, found in fronts.items()},
        "matched": {at: matched(lines, focus, at, outside) for at in ("clip", "fid")},
        "verdict": {
            at: {arm: found[arm]["verdict"] for arm in order} for at, found in fronts.items()
        },
        "paired": at_equal_scale(every, focus, bad),
        "default_scale": at_default_scale(cells, focus, bad),
    }


def _exact(cells: Mapping[str, Cell]) -> Mapping[str, Cell]:
    """Return the cells whose fronts are compared: those that are not approximated, if any."""
    return {k: cell for k, cell in cells.items() if not cell.entry.get("approximation")} or cells


def _bad(cells: Mapping[str, Cell]) -> set[str]:
    """Return the arms that cannot be compared."""
    return {cell.entry["arm"] for cell in cells.values() if not cell.entry["valid"]}


def curves(cells: Mapping[str, Cell], bad: set[str]) -> dict[str, Curve]:
    """Return one curve per valid arm through its cells with CLIP and FID, ordered by omega."""
    by_arm: dict[str, list[Cell]] = {}
    for cell in cells.values():
        if cell.entry["arm"] not in bad and cell.entry["fid"] is not None:
            by_arm.setdefault(cell.entry["arm"], []).append(cell)
    found = {}
    for arm, points in by_arm.items():
        points.sort(key=lambda cell: cell.entry["omega"])
        values = [np.array([c.entry[k] for c in points]) for k in ("omega", "clip", "fid")]
        draws = [np.stack([c.draws[k] for c in points], axis=1) for k in ("clip", "fid")]
        found[arm] = Curve(*values, *draws, min(cell.prompts for cell in points))
    return found


def few_strengths(cells: Mapping[str, Cell]) -> list[str]:
    """Say in a line which arms have too few strengths for a close verdict, and what to add."""
    lines = curves(_exact(cells), _bad(cells))
    found = {arm: straight(line) for arm, line in lines.items()}
    pieces = {arm: ends for arm, ends in found.items() if ends}
    if not pieces:
        return []
    listed = ", ".join(f"{arm} (ω {low:.3g} to {high:.3g})" for arm, (low, high) in pieces.items())
    between = sorted({f"{sqrt(low * high):.2g}" for low, high in pieces.values()}, key=float)
    return [
        f"fronts of one straight piece: {listed}. An arm attains more between its strengths than "
        "such a line says, so a small difference may be due to it (docs/evaluation.md); add "
        f"--scales {','.join(between)}"
    ]


def bent_fronts(front: Mapping[str, Mapping[str, dict]]) -> list[str]:
    """Say in a line which headline differences smooth curves would change much."""
    said = []
    for at, name in (("clip", "FID at equal CLIP"), ("fid", "CLIP at equal FID")):
        for arm, found in front[at].items():
            if "smooth" not in found:
                continue
            low, high = found["interval"]
            if abs(found["smooth"] - found["difference"]) > (high - low) / 4:
                said.append(f"{name}, {arm}: {found['smooth']:+.3f} for {found['difference']:+.3f}")
    if not said:
        return []
    return [
        f"with smooth curves through the same points, not straight pieces: {'; '.join(said)}. "
        "Strengths between would tell (docs/evaluation.md)"
    ]


def _difference(ours: Cell, theirs: Cell, name: str) -> dict | None:
    """Return ours − theirs in one measure, or None where either lacks it."""
    if name not in ours.draws or name not in theirs.draws:
        return None
    gap = ours.entry[name] - theirs.entry[name]
    prompts = min(ours.prompts, theirs.prompts)
    return difference(gap, ours.draws[name] - theirs.draws[name], prompts)


def _judged(pairs: Mapping[str, tuple[Cell, Cell]], bad: Mapping[str, dict]) -> dict[str, dict]:
    """Return arm → measure → comparison; the arms are one family of Holm's in each measure."""
    rows: dict[str, dict] = {arm: {} for arm in (*pairs, *bad)}
    for name in MEASURES:
        found = {arm: _difference(*pair, name) for arm, pair in pairs.items()}
        known = {arm: gap for arm, gap in found.items() if gap is not None}
        judged = judge({**known, **bad}, lower_is_better=name == "fid")
        for arm, row in rows.items():
            row[name] = judged.get(arm)
    return rows


def at_equal_scale(cells: Mapping[str, Cell], focus: str, bad: set[str]) -> list[dict]:
    """Compare the focus arm with every other at each omega that both were run at."""
    at: dict[float, dict[str, Cell]] = {}
    for cell in cells.values():
        at.setdefault(round(cell.entry["omega"], 3), {})[cell.entry["arm"]] = cell
    rows = []
    for omega, found in at.items():
        if focus not in found:
            continue
        others = [arm for arm in found if arm != focus]
        invalid = {arm: {"verdict": INVALID} for arm in others if arm in bad or focus in bad}
        pairs = {arm: (found[focus], found[arm]) for arm in others if arm not in invalid}
        judged = _judged(pairs, invalid)
        rows += [{"baseline": arm, "omega": omega, **judged[arm]} for arm in others]
    order = list(dict.fromkeys(cell.entry["arm"] for cell in cells.values()))
    return sorted(rows, key=lambda row: (order.index(row["baseline"]), row["omega"]))


def at_default_scale(cells: Mapping[str, Cell], focus: str, bad: set[str]) -> dict | None:
    """Compare the focus arm at its default scale with each baseline at its own best one.

    The baseline is taken at its scale of lowest FID, and at that of highest CLIP: chosen on the
    same images, hence in its favour. None when the focus arm has no default, is invalid, or was
    run at no scale within a factor of 1.25 of it. The rows of one choice are a family of Holm's.
    """
    own = [cell for cell in cells.values() if cell.entry["arm"] == focus]
    default = {r.name: r.scale for r in available()}.get(own[0].entry["sampler"])
    if default is None or focus in bad:
        return None
    ours = min(own, key=lambda cell: abs(log(cell.entry["scale"] / default)))
    if abs(log(ours.entry["scale"] / default)) > log(NEAR):
        return None
    arms = dict.fromkeys(cell.entry["arm"] for cell in cells.values())
    others = {
        arm: [cell for cell in cells.values() if cell.entry["arm"] == arm]
        for arm in arms
        if arm != focus and arm not in bad
    }
    rows = []
    for name, best in (("fid", min), ("clip", max)):
        pairs = {}
        for arm, found in others.items():
            known = {i: c.entry[name] for i, c in enumerate(found) if c.entry[name] is not None}
            if known:
                pairs[arm] = (ours, found[best(known, key=known.__getitem__)])
        judged = _judged(pairs, {})
        rows += [
            {"baseline": arm, "best": name, "omega": pair[1].entry["omega"], **judged[arm]}
            for arm, pair in pairs.items()
        ]
    scale, omega = ours.entry["scale"], ours.entry["omega"]
    return {"default": default, "scale": scale, "omega": omega, "rows": rows}
