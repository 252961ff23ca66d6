"""Figures of pages as inline SVG, whose colours follow the page (light or dark) through CSS variables."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import markupsafe
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NUM_SERIES = 6

# Drawn in these colours, which are then replaced by what the page defines.
INK, LINE = "#0a0b01", "#0a0b02"
SERIES = [f"#0a0b1{index}" for index in range(NUM_SERIES)]
_CSS = {INK: "var(--muted)", LINE: "var(--line)"} | {
    color: f"var(--series-{index + 1})" for index, color in enumerate(SERIES)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": LINE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
}


@contextmanager
def drawn(name: str, width: float, height: float, **settings: Any) -> Iterator[Figure]:
    """A figure of so many inches in the pages' style. name: makes what is drawn the same each time."""
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        yield Figure(figsize=(width, height), dpi=110, **{"layout": "constrained", **settings})


def draw_curve(
    axes: Axes, x: Sequence[float], y: Sequence[float], color: str, *, width: float = 1.2, style: str = "-"
) -> None:
    """A line through points; of a single one, a dot."""
    axes.plot(x, y, f"o{style}" if len(x) == 1 else style, color=color, linewidth=width, markersize=3)


def to_svg(figure: Figure, description: str) -> str:
    """An <svg> element that names itself to those who do not see it, and holds no address and no id twice."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)  # known inside HTML, and addresses are unwanted
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # one page holds several figures: ids would repeat
    label = f'role="img" aria-label="{markupsafe.escape(description)}"'
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: label, svg, count=1)
    for color, replacement in _CSS.items():
        svg = svg.replace(color, replacement)
    return svg
