"""Results as text: CSV files, the markdown tables, and the verdict in a sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from math import floor, log10

from eval.statistics import INVALID

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
MORE_HEADER = [
    "arm", "ω", "CLIP 2 ↑", "FID∞ ↓", "CMMD ↓", "precision ↑", "recall ↑", "saturation",
    "contrast", "latent std", "duplicates",
]  # fmt: skip
CAPTION = (
    "Differences with their 95 % intervals, paired over prompts and not adjusted; a verdict "
    "other than 'not distinguishable' needs Holm's p-value over the arms of its column below 0.05, "
    "so an interval that excludes 0 is not enough."
)


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
            unusable(cell), number(seconds, 3),
        ])  # fmt: skip
    return rows


def unusable(cell: dict) -> str:
    """Say how many images of a cell cannot be scored, and how many of them are missing."""
    missing = cell.get("missing")
    return f"{cell['invalid']} ({missing} missing)" if missing else str(cell["invalid"])


def more_rows(results: dict) -> list[list[str]]:
    """Return one row of further measures per arm and scale, in the order of MORE_HEADER."""
    cells = results["cells"].values()
    fid, cmmd = (digits_for(cell[name] for cell in cells) for name in ("fid", "cmmd"))
    return [
        [
            cell["arm"], f"{cell['omega']:g}", number(cell["clip2"]),
            number(cell["fid_infinity"], fid), number(cell["cmmd"], min(4, cmmd)),
            number(cell["precision"], 3), number(cell["recall"], 3), number(cell["saturation"], 3),
            number(cell["contrast"], 3), number(cell["latent_std"], 3), str(cell["duplicates"]),
        ]
        for cell in cells
    ]  # fmt: skip


def difference_text(comparison: dict | None, digits: int = 2, factor: float = 1) -> str:
    """Say one comparison in a table cell: difference, 95 % interval, word.

    Fronts that meet in a point alone were compared there: no mean over a range.
    """
    if comparison is None:
        return MISSING
    if "difference" not in comparison:
        return comparison["verdict"]
    value, low, high = (factor * v for v in (comparison["difference"], *comparison["interval"]))
    shown = f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    low, high = comparison.get("range", (0, 1))
    return f"{shown} {'at one point: ' if low == high else ''}{comparison['verdict']}"


def matched_header(results: dict, at: str) -> list[str]:
    """Return the header of the matched table: the mean over the fronts, then the levels."""
    held, other = ("CLIP", "FID") if at == "clip" else ("FID", "CLIP")
    found = [entry["level"] for entry in results["matched"][at]]
    digits = digits_for(found)
    shown = [f"Δ{other} at {held} = {level:.{digits}f}" for level in found]
    return ["against", f"mean Δ{other} over both fronts", f"from {held} to {held}", *shown]


def matched_rows(results: dict, at: str) -> list[list[str]]:
    """Return one row per baseline: focus − baseline over the common front, and at every level."""
    table, fronts = results["matched"][at], results["front"][at]
    ends = digits_for(end for found in fronts.values() for end in found.get("range", ()))
    values = [c.get("difference") for e in table for c in e["comparisons"].values()]
    values += [found.get("difference") for found in fronts.values()]
    digits = min(3, digits_for(values))
    rows = []
    for arm in results["verdict"][at]:
        span = "–".join(f"{end:.{ends}f}" for end in fronts[arm].get("range", ())) or MISSING
        levels = [difference_text(e["comparisons"][arm], digits) for e in table]
        rows.append([arm, difference_text(fronts[arm], digits), span, *levels])
    return rows


PAIRED = (("clip", "ΔCLIP", 1), ("clip2", "ΔCLIP 2", 1), ("fid", "ΔFID", 1),
          ("all_right", "Δ all right %", 100))  # fmt: skip
PAIRED_HEADER = ["against", "ω", *(title for _, title, _ in PAIRED)]
DEFAULT_HEADER = ["against", "at its best", "ω", *(title for _, title, _ in PAIRED)]


def _paired_cells(row: dict) -> list[str]:
    return [difference_text(row[name], 2, factor) for name, _, factor in PAIRED]


def paired_rows(results: dict) -> list[list[str]]:
    """Return focus − baseline at every scale that both were run at."""
    return [
        [row["baseline"], f"{row['omega']:g}", *_paired_cells(row)] for row in results["paired"]
    ]


def default_rows(results: dict) -> list[list[str]]:
    """Return focus at its default scale − baseline at its own best one, by FID and by CLIP."""
    return [
        [row["baseline"], row["best"].upper(), f"{row['omega']:g}", *_paired_cells(row)]
        for row in (results["default_scale"] or {"rows": []})["rows"]
    ]


def default_title(results: dict) -> str:
    """Say what the table of `default_rows` compares."""
    found = results["default_scale"]
    at = f"scale {found['scale']:g} (ω {found['omega']:g}; its default is {found['default']:g})"
    return (
        f"{results['focus']} at {at} minus each arm at the scale where its own FID is lowest, and "
        "where its own CLIP is highest, chosen on these images in the arm's favour"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def sentence(results: dict, at: str = "clip") -> str:
    """Say in words against which arms the focus arm wins, loses, or neither."""
    fronts, focus = results["front"][at], results["focus"]
    what = "FID at matched CLIP" if at == "clip" else "CLIP at matched FID"
    if not fronts:
        others = {cell["arm"] for cell in results["cells"].values()} - {focus}
        if others:
            return f"{focus} is compared with approximated arms at equal strength alone: see above."
        return f"{focus} was run without other arms: nothing to compare."
    words = {arm: found["verdict"] for arm, found in fronts.items()}
    if all("difference" not in found for found in fronts.values()):
        reason = "images are missing or cannot be scored" if INVALID in words.values() else "no FID"
        return f"{what} cannot be compared: {reason}."
    said = []
    for word, text in (
        ("better", "wins against {}"),
        ("worse", "loses to {}"),
        ("not distinguishable", "is not distinguishable from {}"),
        ("out of range", "cannot be compared with {} (out of range)"),
        (INVALID, "cannot be compared with {} (invalid images)"),
    ):
        arms = [arm for arm in words if words[arm] == word]
        if word in ("better", "worse"):
            arms = [f"{arm} ({fronts[arm]['difference']:+.2f})" for arm in arms]
        if arms:
            said.append(text.format(_listed(arms)))
    return f"{what}: averaged over the front, {focus} {'; '.join(said)}."


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
        "[n] is the number of images, floor what n more pictures like the reference's would score.",
        "",
        markdown(SCORE_HEADER, score_rows(results, timing)),
        "",
        f"Further measures: {results['stamp']}. CLIP 2: {results['second_scorer'] or 'none'}. FID∞ "
        "is FID extrapolated to infinitely many images; CMMD, precision and recall compare with "
        "the same reference, whose saturation is "
        f"{number(results['saturation'], 3)} and contrast {number(results['contrast'], 3)}.",
        "",
        markdown(MORE_HEADER, more_rows(results)),
    ]
    for note in results["notes"]:
        parts += ["", f"Note: {note}"]
    for at, better in (("clip", "negative FID is better"), ("fid", "positive CLIP is better")):
        if any("difference" in found for found in results["front"][at].values()):
            head, rows = matched_header(results, at), matched_rows(results, at)
            title = f"{results['focus']} minus each arm ({better}). {CAPTION}"
            parts += ["", title, "", markdown(head, rows)]
    if results["default_scale"]:
        parts += ["", f"{default_title(results)}. {CAPTION}", ""]
        parts += [markdown(DEFAULT_HEADER, default_rows(results))]
    if results["paired"] and not results["matched"]["clip"]:
        title = f"{results['focus']} minus each arm at equal ω (no curve to match along). {CAPTION}"
        parts += ["", title, "", markdown(PAIRED_HEADER, paired_rows(results))]
    return "\n".join([*parts, "", sentence(results, "clip"), "", sentence(results, "fid")])
