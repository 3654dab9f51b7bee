"""Publish a scored run as a folder with a README.md: small enough to commit, pleasant to read.

What a page says about results follows from results.json alone and stands between two marks. What
is outside them belongs to whoever publishes, and stays when the page is written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.claim import read
from eval.folder import read_json
from eval.images import write_atomic
from eval.report import command
from eval.summary import summary
from eval.tables import full_text

BEGIN, END = "<!-- results: written by python -m eval page -->", "<!-- /results -->"
FILES = ("results.json", "results.csv", "env.json")
CURVE = ("curve.json", "curve.csv")  # of runs that `eval curve` has been through
FIGURES = {
    "front": "FID against CLIP",
    "grid": "Same prompts and seeds",
    "scale": "Over the strength of guidance",
    "burn": "Saturation and contrast",
    "nfe": "Over the number of evaluations",
}


def page(
    folder: Path, out: Path | None = None, figures: Sequence[str] | None = None, html: bool = False
) -> Path:
    """Write a page of a scored run and the files that it names; return the path of its README.md.

    folder   a run folder that was scored and reported, or an earlier page to write again
    out      where to; the folder itself when left out
    figures  names of FIGURES; all that the folder has when left out
    html     also publish report.html; a page that has one gets the new one anyway

    Raises ValueError, in one line, where a run has no results, a figure is missing or older than
    the numbers that it should show, or out holds a README.md without the two marks.
    """
    folder, out = Path(folder), Path(out or folder)
    (results,) = read([folder]).values()
    pictures = _pictures(folder, figures)
    html = html or (out / "report.html").is_file()
    names = [*FILES, *(name for name in CURVE if (folder / name).is_file())]
    names += ["report.html"] if html else []
    sources = {name: folder / name for name in names} | pictures
    missing = [str(path) for path in sources.values() if not path.is_file()]
    if missing:
        raise ValueError(
            f"{missing[0]} is not there; write it with 'python -m eval report {folder}'"
        )
    _check_age(folder, sources)
    text = _framed(out / "README.md", _heading(folder, results), body(results, list(sources)))
    for name, source in sources.items():
        if source != out / name:
            write_atomic(out / name, source.read_bytes())
    write_atomic(out / "README.md", text.encode())
    return out / "README.md"


def body(results: Mapping, files: Sequence[str]) -> str:
    """Return what stands between the marks: summary, figures among `files`, and all tables."""
    focus = results["focus"]
    parts = [
        f"One row per arm; differences are `{focus}` minus the arm, mean over the common front, "
        "with 95 % intervals over prompts and Holm's verdict over the arms. The strength ω is in "
        "CFG units for every arm; CFG++ arms convert it to their λ. Every prompt and seed has a "
        "start noise of its own, the same for all arms.",
        summary(results),
        *(f"![{text}]({name}.png)" for name, text in FIGURES.items() if f"{name}.png" in files),
        "<details><summary>All numbers</summary>",
        full_text(results, {}),
        "</details>",
        f"Files: {', '.join(f'[{name}]({name})' for name in files if not name.endswith('.png'))}.",
    ]
    return "\n\n".join(parts)


def _pictures(folder: Path, names: Sequence[str] | None) -> dict[str, Path]:
    """Return file name → path: a run has its figures in figures/, a page beside its README."""
    unknown = [name for name in names or () if name not in FIGURES]
    if unknown:
        raise ValueError(f"figure {unknown[0]!r} is unknown; known: {', '.join(FIGURES)}")
    place = folder / "figures" if (folder / "figures").is_dir() else folder
    found = {f"{name}.png": place / f"{name}.png" for name in names or FIGURES}
    return found if names else {name: path for name, path in found.items() if path.is_file()}


def _check_age(folder: Path, sources: Mapping[str, Path]) -> None:
    """Raise ValueError where a run was scored after what shows its scores was drawn.

    Pages hold files that fit together; when each was written says nothing there (git keeps no
    times).
    """
    if not (folder / "config.json").is_file():
        return
    times = {path: path.stat().st_mtime_ns for path in sources.values()}
    numbers = [times[sources[n]] for n in ("results.json", "curve.json") if n in sources]
    drawn = [path for path in sources.values() if path.suffix in (".png", ".html")]
    stale = [path for path in drawn if times[path] < max(numbers)]
    if stale:
        raise ValueError(
            f"{stale[0]} is older than the numbers that it should show; draw it again with "
            f"'python -m eval report {folder}'"
        )


def _heading(folder: Path, results: Mapping) -> str:
    """Return how a new page begins: what was run, what it may not be taken for, and the command."""
    title = f"# `{results['focus']}` on {results['model']}, NFE {results['nfe']}"
    parts = [title, f"**{results['stamp'][:1].upper()}{results['stamp'][1:]}.**"]
    if config := read_json(folder / "config.json"):
        parts.append(f"    {command(config, folder.name, results)}")
    return "\n\n".join(parts)


def _framed(readme: Path, heading: str, text: str) -> str:
    """Return a README.md with `text` between the marks, around it what was there, or a heading."""
    before, after = f"{heading}\n\n", "\n"
    if readme.is_file():
        old = readme.read_text(encoding="utf-8")
        before, begin, rest = old.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(
                f"{readme} lacks the lines '{BEGIN}' and '{END}'; put them where the results go"
            )
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
