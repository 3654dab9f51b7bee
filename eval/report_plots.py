"""Draw every plot of the report, as PNG files and as SVG for the page."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from eval import figures, panels
from eval.pick import by_arm
from eval.svg import inline

VARIABLES = {c: f"var(--arm-{i})" for i, c in enumerate(figures.COLOURS) if c != figures.INK}
VARIABLES[figures.FOCUS_COLOUR] = "var(--focus)"
OMEGA = "guidance strength ω"


def arms_of(results: dict, curve: dict | None) -> list[str]:
    """Return the arms of the run, and those that only its NFE curve has."""
    extra = [point["arm"] for point in curve["points"]] if curve else []
    return list(dict.fromkeys([*by_arm(results), *extra]))


def plots(results: dict, curve: dict | None, folder: Path) -> dict[str, list[str]]:
    """Write the PNG files and return the same figures for the page: name → SVG texts.

    "front" is a wide and a narrow one, of which the page shows what fits; the others are panels.
    """
    style = figures.styles(arms_of(results, curve), results["focus"])
    found: dict[str, list[str]] = {"front": []}
    (folder / "front.png").unlink(missing_ok=True)  # of an earlier report, when FID is gone
    if whole := figures.front(results):
        figures.save(whole, folder / "front.png")
        label = "FID over CLIP score, one line per sampler through its guidance strengths"
        for name, size in (("wide", (7.6, 4.6)), ("narrow", (3.7, 4.0))):
            drawn = figures.front(results, size, legend=False)
            found["front"].append(_svg(drawn, f"front-{name}", label))
    title = figures.title_of(results)
    found["scale"] = _panels(
        panels.over_strength(results), style, OMEGA, folder / "scale.png", title
    )
    found["burn"] = _panels(panels.burn(results), style, OMEGA, folder / "burn.png", title)
    shown, ticks = [], None
    if curve:
        title = f"{results['stamp']}  ·  ω = {curve['omega']:g}"
        shown, ticks = panels.over_nfe(curve), curve["nfes"]
    found["nfe"] = _panels(shown, style, "network evaluations", folder / "nfe.png", title, ticks)
    return found


def _panels(found, style, x_label: str, path: Path, title: str, ticks=None) -> list[str]:
    """Write panels as one PNG, and return each as SVG; without any, remove an old file."""
    if not found:
        path.unlink(missing_ok=True)
        return []
    figures.save(panels.draw(found, style, x_label, title, ticks), path)
    return [
        _svg(
            panels.draw([one], style, x_label, ticks=ticks),
            f"{path.stem}-{place}",
            f"{one.label} over {x_label}, one line per sampler",
        )
        for place, one in enumerate(found)
    ]


def _svg(figure: Figure, name: str, label: str) -> str:
    return inline(figure, name, label, VARIABLES)


def legend(results: dict, curve: dict | None) -> list[dict]:
    """Return, for every arm, its name, its CSS class and a swatch of its line."""
    return [
        {
            "arm": arm,
            "class": style["gid"],
            "swatch": _svg(figures.swatch(style), f"swatch-{place}", ""),
        }
        for place, (arm, style) in enumerate(
            figures.styles(arms_of(results, curve), results["focus"]).items()
        )
    ]
