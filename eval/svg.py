"""Put a matplotlib figure into a page as SVG: real text, colours of the page, no foreign names.

Inside a page a figure follows light and dark: the ink becomes `currentColor`, an arm's colour the
CSS variable `--arm-N` of its place in `figures.COLOURS`, and what belongs to an arm (drawn with the
gid `arm-N`) gets the class of that name, so that the page can bring it forward.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

INK = "#1d1f23"  # whatever is drawn in this colour takes the colour of the page's text
PAPER = "#ffffff"  # and whatever is white that of the ground below it


def inline(figure: Figure, name: str, label: str, variables: Mapping[str, str]) -> str:
    """Return `<svg …>` for a page.

    name       prefix of the ids; one page must not use it twice
    label      what the figure shows, for those who cannot see it
    variables  colour "#rrggbb" → CSS variable
    """
    out = io.StringIO()
    # Text stays text: small, selectable, and in the page's font.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]*)"', text)[1]
    width = view.split()[2]
    text = text[text.index(">") + 1 :]
    # matplotlib's own style element would style every element of the page, not its own alone.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="arm-(\d+)">', r'<g class="arm arm-\1">', text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    for colour, replacement in {INK: "currentColor", PAPER: "var(--card)", **variables}.items():
        text = re.sub(re.escape(colour), replacement, text, flags=re.I)
    text = re.sub(r"<[^>]*>", _rounded, re.sub(r"\n\s*", "\n", text))
    start = f'<svg viewBox="{view}" role="img" aria-label="{html.escape(label)}" '
    return f'{start}style="max-width:{1.4 * float(width):.0f}px">' + text.strip()


def _rounded(tag: re.Match) -> str:
    """Cut the coordinates in a tag to hundredths of a point; what is between tags stays."""
    return re.sub(r"(\.\d\d)\d+", r"\1", tag[0])
