"""One row per arm from the results of runs: one run in detail, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eval.tables import MISSING, difference_text, markdown


def bests(runs: Mapping[str, dict]) -> str:
    """Return `summary` of one run, or `side_by_side` of several."""
    return side_by_side(runs) if len(runs) > 1 else summary(*runs.values())


def summary(results: Mapping) -> str:
    """Return a markdown table: each arm's best FID, CLIP and captions right over its strengths,
    and focus arm − arm averaged over their common front."""
    focus = results["focus"]
    header = ["sampler", "lowest FID", "highest CLIP", "most captions right"]
    header += [f"`{focus}` against it: FID at equal CLIP", "CLIP at equal FID"]
    cells = [cell for cell in results["cells"].values() if cell["clip"] is not None]
    rows = []
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        own = [cell for cell in cells if cell["arm"] == arm]
        clip = max(own, key=lambda c: c["clip"])
        row = [
            f"`{arm}`",
            _best(own, "fid", -1, lambda cell: f"{cell['fid']:.2f}"),
            f"{clip['clip']:.2f} ± {clip['clip_half_interval']:.2f} (ω {clip['omega']:g})",
            _best(own, "all_right", 1, lambda cell: f"{100 * cell['all_right']:.1f} %"),
        ]
        if arm == focus:
            rows.append([f"**{row[0]}**", *row[1:], "–", "–"])
        else:
            rows.append(
                [*row, *(difference_text(results["front"][at][arm]) for at in ("clip", "fid"))]
            )
    return markdown(header, rows)


def _best(cells: Sequence[Mapping], name: str, sign: int, shown: Callable[[Mapping], str]) -> str:
    """Return an arm's best value and its strength; a dash where none was measured."""
    known = [cell for cell in cells if cell[name] is not None]
    if not known:
        return MISSING
    best = max(known, key=lambda cell: sign * cell[name])
    return f"{shown(best)} (ω {best['omega']:g})"


SIGNS = {"not distinguishable": "≈"}  # the other words stand for themselves


def side_by_side(runs: Mapping[str, dict]) -> str:
    """Return a markdown table over several runs' results: per run each arm's lowest FID, its
    highest CLIP, and what the focus arm is against it in FID at equal CLIP and in CLIP at equal
    FID (≈: not distinguishable). Arms are those of all runs, in the order of the first that has
    them; runs may have different focus arms."""
    focused = {results["focus"] for results in runs.values()}
    arms = (cell["arm"] for results in runs.values() for cell in results["cells"].values())
    header = ["sampler"]
    for name, results in runs.items():
        header += [f"{name}: FID ↓", "CLIP ↑", f"`{results['focus']}` against it"]
    rows = []
    for arm in dict.fromkeys(arms):
        row = [f"**`{arm}`**" if arm in focused else f"`{arm}`"]
        for results in runs.values():
            own = [c for c in results["cells"].values() if c["arm"] == arm and c["fid"] is not None]
            if not own:
                row += [MISSING] * 3
                continue
            words = [results["verdict"][at].get(arm, MISSING) for at in ("clip", "fid")]
            row += [
                f"{min(c['fid'] for c in own):.2f}",
                f"{max(c['clip'] for c in own):.2f}",
                MISSING if arm == results["focus"] else " / ".join(SIGNS.get(w, w) for w in words),
            ]
        rows.append(row)
    return markdown(header, rows)
