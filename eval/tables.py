"""Results as text: CSV files, the markdown tables, and the verdict in a sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from math import floor, log10

from eval.front import OUT

MISSING = "–"


def digits_for(values: Iterable[float | None]) -> int:
    """Return how many decimals show the largest value with four significant digits, 1 to 6."""
    largest = max((abs(v) for v in values if v), default=1.0)
    return min(6, max(1, 3 - floor(log10(largest))))


def number(value: float | None, digits: int = 2) -> str:
    """Format a number, or a dash where there is none."""
    return MISSING if value is None else f"{value:.{digits}f}"


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def to_csv(header: list[str], rows: Iterable[list]) -> str:
    """Return CSV text with \\n line ends, so that it is the same on every system."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


SCORE_HEADER = [
    "arm", "ω", "scale", "CLIP ↑", "FID ↓ [n]", "floor", "KID×10³ ↓", "all right %", "invalid",
    "s/image",
]  # fmt: skip


def score_rows(results: dict, timing: dict[str, float]) -> list[list[str]]:
    """Return one row of text per arm and scale, in the order of SCORE_HEADER."""
    rows = []
    digits = digits_for(cell["fid"] for cell in results["cells"].values())
    for key, cell in results["cells"].items():
        half = cell["clip_half_interval"]
        clip = number(cell["clip"]) + (f" ± {half:.2f}" if half is not None else "")
        fid = MISSING if cell["fid"] is None else f"{cell['fid']:.{digits}f} [{cell['n']}]"
        seconds = timing.get(key)
        kid = None if cell["kid"] is None else 1000 * cell["kid"]
        checked = None if cell["all_right"] is None else 100 * cell["all_right"]
        rows.append([
            cell["arm"], f"{cell['omega']:g}", f"{cell['scale']:g}", clip, fid,
            number(cell["fid_floor"], digits), number(kid), number(checked, 1),
            str(cell["invalid"]), number(seconds, 3),
        ])  # fmt: skip
    return rows


def matched_cell(comparison: dict, digits: int = 2) -> str:
    """Say one comparison in a table cell: difference, 95 % interval, word."""
    if comparison["verdict"] == OUT:
        return OUT
    value, (low, high) = comparison["difference"], comparison["interval"]
    shown = f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{shown} {comparison['verdict']}"


def matched_header(results: dict, at: str) -> list[str]:
    """Return the header of the matched table: one column per level."""
    held, other = ("CLIP", "FID") if at == "clip" else ("FID", "CLIP")
    found = [entry["level"] for entry in results["matched"][at]]
    digits = digits_for(found)
    levels = [f"Δ{other} at {held} = {level:.{digits}f}" for level in found]
    return ["against", "overall", *levels]


def _share(results: dict, at: str, arm: str, word: str) -> str:
    """Say at how many of the levels an arm gets a word."""
    words = [entry["comparisons"][arm]["verdict"] for entry in results["matched"][at]]
    return f"{words.count(word)} of {len(words)} levels"


def tally(results: dict, at: str, arm: str) -> str:
    """Say the overall word with the number of levels that it rests on."""
    word = results["verdict"][at][arm]
    if word == "mixed":
        better = _share(results, at, arm, "better")
        return f"mixed: better at {better}, worse at {_share(results, at, arm, 'worse')}"
    if word in ("better", "worse"):
        return f"{word} at {_share(results, at, arm, word)}"
    return word


def matched_rows(results: dict, at: str) -> list[list[str]]:
    """Return one row per baseline: the overall word, and focus − baseline at every level."""
    table = results["matched"][at]
    values = [c.get("difference") for e in table for c in e["comparisons"].values()]
    digits = min(4, digits_for(values))
    return [
        [arm, tally(results, at, arm)]
        + [matched_cell(e["comparisons"][arm], digits) for e in table]
        for arm in results["verdict"][at]
    ]


PAIRED_HEADER = ["against", "ω", "ΔCLIP", "ΔFID", "Δ all right %"]


def paired_rows(results: dict) -> list[list[str]]:
    """Return focus − baseline at every scale that both were run at."""
    rows = []
    for entry in results["paired"]:
        cells = [entry["baseline"], f"{entry['omega']:g}"]
        for name, factor in (("clip", 1), ("fid", 1), ("all_right", 100)):
            found = entry[name]
            if found is None:
                cells.append(MISSING)
                continue
            low, high = (factor * v for v in found["interval"])
            value = factor * found["difference"]
            cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}] {found['verdict']}")
        rows.append(cells)
    return rows


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def sentence(results: dict, at: str = "clip") -> str:
    """Say in words against which arms the focus arm wins, loses, or neither."""
    words, focus = results["verdict"][at], results["focus"]
    what = "FID at matched CLIP" if at == "clip" else "CLIP at matched FID"
    if not words:
        return f"{focus} was run without other arms: nothing to compare."
    if not results["matched"][at]:
        return f"{what} cannot be read: {focus} needs FID at two or more valid scales."
    said = []
    for word, text in (
        ("better", "wins against {}"),
        ("worse", "loses to {}"),
        ("mixed", "wins at some levels and loses at others against {}"),
        ("not distinguishable", "is not distinguishable from {}"),
        (OUT, "cannot be compared with {} (out of range)"),
    ):
        arms = [arm for arm, found in words.items() if found == word]
        if word in ("better", "worse"):
            arms = [f"{arm} ({_share(results, at, arm, word)})" for arm in arms]
        if arms:
            said.append(text.format(_listed(arms)))
    return f"{what}: {focus} {'; '.join(said)}."


def full_text(results: dict, timing: dict[str, float]) -> str:
    """Return everything that `score` prints, as markdown; the first line is the stamp."""
    fid = results["fid"]
    against = fid["reference"] or f"missing: {fid['reason']}"
    parts = [
        results["stamp"],
        "",
        f"Table: {results['stamp']}. NFE {results['nfe']}, {results['prompt_count']} prompts × "
        f"{len(results['seeds'])} seeds. CLIP: {results['scorer']}, cosine × 100, ± half the 95 % "
        f"interval over prompts. FID: {fid['features'] or 'none'}; reference: {against}. "
        "[n] is the number of images, floor what perfect samples would score at that n.",
        "",
        markdown(SCORE_HEADER, score_rows(results, timing)),
    ]
    for note in results["notes"]:
        parts += ["", f"Note: {note}"]
    for at, better in (("clip", "negative FID is better"), ("fid", "positive CLIP is better")):
        if results["matched"][at]:
            head, rows = matched_header(results, at), matched_rows(results, at)
            title = f"{results['focus']} minus each arm ({better}; 95 % intervals, paired)"
            parts += ["", title, "", markdown(head, rows), "", sentence(results, at)]
    if results["paired"] and not results["matched"]["clip"]:
        title = f"{results['focus']} minus each arm at equal ω (no curve to match along)"
        parts += ["", title, "", markdown(PAIRED_HEADER, paired_rows(results))]
    return "\n".join(parts)
