"""Print scored runs as a table for a paper: LaTeX (booktabs), markdown or CSV.

One row per arm, or per arm and strength; per run FID, CLIP and the checker's score, each ± half its
95 % interval over prompts. The best number of a column is bold, the second best underlined, as
shown; arms with images that cannot be scored are marked and not ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.figures import interval_of
from eval.pick import by_arm, damaged, load_scored
from eval.score import read_config
from eval.tables import MISSING, digits_for, markdown, to_csv

MEASURES = (("fid", "FID", 1, -1), ("clip", "CLIP", 1, 1), ("all_right", "right, %", 100, 1))
ESCAPES = {c: f"\\{c}" for c in "_#%&${}"} | {"~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
ESCAPES |= {"\\": "\\textbackslash{}", "ω": "$\\omega$", "√": "$\\surd$", "±": "$\\pm$"}
ESCAPES |= {"↓": "$\\downarrow$", "↑": "$\\uparrow$", "≥": "$\\geq$", "×": "$\\times$"}
BOLD, UNDERLINE = "bold", "underline"


@dataclass(frozen=True)
class Entry:
    """One number of the table: as shown, with half its interval, and its mark."""

    text: str = MISSING
    half: str = ""
    mark: str = ""  # "", BOLD or UNDERLINE


@dataclass(frozen=True)
class Column:
    """One measure of the run in place `run`."""

    run: int
    title: str
    entries: list[Entry]


def table(folders: Sequence[Path], kind: str, at: str = "best") -> str:
    """Return the table of scored runs.

    kind  "latex", "markdown" or "csv"
    at    "best": every arm at its strength of lowest FID, or of highest CLIP without FID; "all": a
          row per strength; a number: at that strength ω, where an arm has it
    Raises ValueError for a folder that is not scored and an `at` that cannot be read.
    """
    runs = []
    for folder in map(Path, folders):
        runs.append(load_scored(folder, read_config(folder)))
    if kind == "csv":
        return _csv(folders, runs, at)
    names, chosen = _rows(runs, at)
    columns = [
        column
        for place, (results, cells) in enumerate(zip(runs, chosen, strict=True))
        for column in _columns(results, place, cells)
    ]
    heads = _heads([Path(folder).name for folder in folders], runs)
    return (_latex if kind == "latex" else _markdown)(runs, heads, names, columns, at)


def _heads(folders: Sequence[str], runs: Sequence[dict]) -> list[str]:
    """Name runs by model, and by NFE or folder, too, where that does not tell them apart."""
    named = [results["model"] for results in runs]
    for more in ([f"NFE {results['nfe']}" for results in runs], folders):
        if len(set(named)) < len(named):
            named = [f"{name}, {other}" for name, other in zip(named, more, strict=True)]
    return named


def _pick(cells: Sequence[dict], at: str) -> list[dict]:
    """Return the cells of one arm that are shown."""
    if at == "all" or not cells:
        return list(cells)
    if at == "best":
        scored = [cell for cell in cells if cell["fid"] is not None]
        found = min(scored, key=lambda c: c["fid"], default=None)
        return [found or max(cells, key=lambda c: c["clip"])]
    try:
        omega = float(at)
    except ValueError:
        raise ValueError(f"--at {at!r}: give best, all or a strength such as 2.5") from None
    return [cell for cell in cells if abs(cell["omega"] - omega) < 1e-3]


def _rows(runs: Sequence[dict], at: str) -> tuple[list[str], list[list[dict | None]]]:
    """Return the names of the rows, and for every run its cell in each row."""
    found: list[dict[tuple, dict]] = []
    for results in runs:
        cells = [c for own in by_arm(results).values() for c in _pick(own, at)]
        keys = [(c["arm"], round(c["omega"], 3) if at == "all" else None) for c in cells]
        found.append(dict(zip(keys, cells, strict=True)))
    keys = list(dict.fromkeys(key for cells in found for key in cells))
    if not keys:
        raise ValueError(f"--at {at}: no arm has this strength; give best, all or one that was run")
    names = [arm if omega is None else f"{arm}, ω = {omega:g}" for arm, omega in keys]
    bad = set().union(*map(damaged, runs))
    names = [f"{n} †" if arm in bad else n for n, (arm, _) in zip(names, keys, strict=True)]
    return names, [[cells.get(key) for key in keys] for cells in found]


def _columns(results: dict, place: int, cells: Sequence[dict | None]) -> list[Column]:
    bad, columns = damaged(results), []
    for name, title, factor, sign in MEASURES:
        values = [None if c is None or c[name] is None else factor * c[name] for c in cells]
        if all(value is None for value in values):
            continue
        digits = min(2, digits_for(values))
        shown = [None if v is None else f"{v:.{digits}f}" for v in values]
        ranked = {
            float(s)
            for s, c in zip(shown, cells, strict=True)
            if s is not None and c["arm"] not in bad
        }
        best = sorted(ranked, key=lambda v: -sign * v)[:2] if len(ranked) > 1 else []
        entries = []
        for text, cell in zip(shown, cells, strict=True):
            if text is None:
                entries.append(Entry())
                continue
            ends = interval_of(cell, name)
            half = "" if ends is None else f"{factor * (ends[1] - ends[0]) / 2:.{digits}f}"
            ranked_here = cell["arm"] not in bad and float(text) in best
            mark = (BOLD, UNDERLINE)[best.index(float(text))] if ranked_here else ""
            entries.append(Entry(text, half, mark))
        columns.append(Column(place, f"{title} {'↓' if sign < 0 else '↑'}", entries))
    return columns


def caption(runs: Sequence[dict], named: Sequence[str], names: Sequence[str], at: str) -> str:
    """Say what the table shows; a stand-in is never mistaken for Stable Diffusion.

    named  what the runs are called in the table
    names  of its rows
    """
    stamps = "; ".join(dict.fromkeys(results["stamp"] for results in runs))
    counts = {f"{r['prompt_count']} prompts × {len(r['seeds'])} seeds" for r in runs}
    fid = any(cell["fid"] is not None for r in runs for cell in r["cells"].values())
    each = {
        "best": f"Every arm at its strength of {'lowest FID' if fid else 'highest CLIP'}",
        "all": "Strengths ω in CFG units for every arm; equal ω is not equal guidance",
    }.get(at, f"Every arm at strength ω = {at} in CFG units, which is not equal guidance")
    nfe = ", ".join(sorted({str(r["nfe"]) for r in runs}))
    parts = [
        f"{stamps[0].upper()}{stamps[1:]}. NFE {nfe}; {' or '.join(sorted(counts))}. {each}.",
        "± half the 95 % interval over prompts.",
        *_judges(runs, named),
    ]
    if any(name.endswith("†") for name in names):
        parts.append("†: some images cannot be scored; not ranked.")
    if any("~" in name for name in names):
        parts.append("~: approximated, its evaluations are not all whole: no result at this NFE.")
    return " ".join(parts)


def _judges(runs: Sequence[dict], named: Sequence[str]) -> list[str]:
    """Say by what CLIP and FID were measured, once for all runs of which the same is true."""
    found: dict[str, list[str]] = {}
    for results, name in zip(runs, named, strict=True):
        fid = results["fid"]
        said = f"CLIP: {results['scorer']}, cosine × 100. FID: {fid['features'] or 'none'}"
        said += f"; reference: {fid['reference']}." if fid["reference"] else "."
        found.setdefault(said, []).append(name)
    if len(found) == 1:
        return list(found)
    return [f"In {'; '.join(who)}: {said}" for said, who in found.items()]


def _escaped(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)


def _latex_entry(entry: Entry) -> str:
    if entry.text == MISSING:
        return "--"
    style = {BOLD: "\\textbf{%s}", UNDERLINE: "\\underline{%s}", "": "%s"}[entry.mark]
    half = f" {{\\scriptsize $\\pm$ {entry.half}}}" if entry.half else ""
    return style % entry.text + half


def _latex(
    runs, named: Sequence[str], names: Sequence[str], columns: Sequence[Column], at: str
) -> str:
    widths = [sum(column.run == place for column in columns) for place in range(len(runs))]
    starts = [2 + sum(widths[:place]) for place in range(len(runs))]
    heads = [
        f"\\multicolumn{{{width}}}{{c}}{{{_escaped(name)}}}"
        for name, width in zip(named, widths, strict=True)
    ]
    rules = [f"\\cmidrule(lr){{{s}-{s + w - 1}}}" for s, w in zip(starts, widths, strict=True)]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_escaped(caption(runs, named, names, at))}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "    \\toprule",
        f"    & {' & '.join(heads)} \\\\",
        f"    {' '.join(rules)}",
        f"    sampler & {' & '.join(_escaped(c.title) for c in columns)} \\\\",
        "    \\midrule",
    ]
    for place, name in enumerate(names):
        cells = [_latex_entry(column.entries[place]) for column in columns]
        shown = _escaped(name).replace("†", "$\\dagger$")
        lines.append(f"    {shown} & {' & '.join(cells)} \\\\")
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _markdown_entry(entry: Entry) -> str:
    style = {BOLD: "**%s**", UNDERLINE: "<u>%s</u>", "": "%s"}[entry.mark]
    return style % entry.text + (f" ± {entry.half}" if entry.half else "")


def _markdown(
    runs, named: Sequence[str], names: Sequence[str], columns: Sequence[Column], at: str
) -> str:
    titles = (f"{named[c.run]}: {c.title}" if len(runs) > 1 else c.title for c in columns)
    header = ["sampler", *titles]
    rows = [
        [f"`{name}`", *(_markdown_entry(column.entries[place]) for column in columns)]
        for place, name in enumerate(names)
    ]
    return f"{markdown(header, rows)}\n\n{caption(runs, named, names, at)}\n"


def _csv(folders: Sequence[Path], runs: Sequence[dict], at: str) -> str:
    """Return long form: one line per run, arm and strength, with the ends of the intervals."""
    names = [name for name, *_ in MEASURES]
    header = ["run", "model", "stamp", "nfe", "arm", "omega", "scale", "n", "valid"]
    header += [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    rows = []
    for folder, results in zip(folders, runs, strict=True):
        about = [Path(folder).name, results["model"], results["stamp"], results["nfe"]]
        for own in by_arm(results).values():
            for cell in _pick(own, at):
                row = [*about, *(cell[k] for k in ("arm", "omega", "scale", "n", "valid"))]
                rows.append(
                    row
                    + [v for n in names for v in (cell[n], *(interval_of(cell, n) or (None, None)))]
                )
    return to_csv(header, rows)
