"""matplotlib's SVG as a part of a page: with the page's colours, and ids of its own."""

from __future__ import annotations

import html
import io
import re

from markupsafe import Markup
from matplotlib.figure import Figure

from reports.figures.style import FAINT, INK, MUTED, PALETTE, PAPER, styled

COLOURS = {
    INK: "ink",
    MUTED: "muted",
    FAINT: "faint",
    PAPER: "paper",
    **{colour: f"c{number}" for number, colour in enumerate(PALETTE)},
}
"""The page's CSS variables for the figures' colours, so that they follow its light or dark."""


def inline(figure: Figure, name: str, title: str) -> Markup:
    """A figure as `<svg>`; `name` begins its ids, `title` is its text for those who cannot see it.

    Text stays text, in the reader's own sans-serif where DejaVu Sans is not there.
    """
    file = io.StringIO()
    with styled(**{"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    wide, tall = figure.get_size_inches() * 72
    pixels = wide * 96 / 72 * 1.25
    body = re.sub(r"(?s)^.*?<svg[^>]*>|</svg>\s*$", "", file.getvalue())
    body = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", body)
    body = re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, variable in COLOURS.items():
        body = re.sub(colour, f"var(--{variable})", body, flags=re.IGNORECASE)
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return Markup(
        f'<svg class="figure" role="img" aria-label="{html.escape(title)}" '
        f'viewBox="0 0 {wide:g} {tall:g}" '
        f'style="width:{pixels:.0f}px;min-width:{0.68 * pixels:.0f}px">'
        f"{body}</svg>"
    )
