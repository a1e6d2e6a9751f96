"""How every picture looks, and how one becomes SVG for a page or a PNG for a catalog.

They are drawn in a few colours that stand for roles. In SVG each becomes a variable of CSS,
so that the page says what it is in light and in dark; text stays text. It knows no facts.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

# In pixels, as wide as a card of the page is on a telephone: there a font of 10 is read well.
WIDTH = 345
POINTS_PER_INCH = 72
# After so many, ticks and room for them agree.
LAYOUTS = 2
# Of a PNG: sharp on most screens, and a few thousand bytes.
PNG_DPI, PNG_COLOURS = 130, 48

INK, SOFT, LINE = "#1b1f27", "#5d6675", "#c9ced6"
# What happened, what it is compared with, and how bad it is.
BLUE, GREY, GREEN, AMBER, RED = "#2b5d8a", "#8c96a8", "#3a7d44", "#b5760c", "#c44e52"
ROLES = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    BLUE: "blue",
    GREY: "grey",
    GREEN: "green",
    AMBER: "amber",
    RED: "red",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": SOFT,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "axes.unicode_minus": False,
    # A dollar in a name is a dollar.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Picture:
    """A drawing: its name, a sentence for whoever can't see it, and what was drawn."""

    name: str
    about: str
    figure: Figure

    def svg(self) -> str:
        """Return it as an element of HTML, in the colours of the page."""
        file = io.StringIO()
        looks: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": self.name}
        with matplotlib.rc_context(looks), any_letters():
            FigureCanvasSVG(self.figure)
            self.figure.savefig(
                file, format="svg", transparent=True, metadata={"Date": None}
            )
        return _inline(file.getvalue(), self.name, self.about)

    def png(self) -> bytes:
        """Return it as a PNG on white."""
        file, small = io.BytesIO(), io.BytesIO()
        FigureCanvasAgg(self.figure)
        with any_letters():
            self.figure.savefig(file, format="png", dpi=PNG_DPI, facecolor="white")
        with Image.open(file) as drawn:
            few = drawn.convert("RGB").quantize(PNG_COLOURS)
            few.save(small, format="png", optimize=True)
        return small.getvalue()


@contextmanager
def drawing(height: float, *, constrained: bool = True) -> Iterator[Figure]:
    """Give an empty figure of so many pixels, and the looks of all that is drawn in it."""
    with matplotlib.rc_context(STYLE), any_letters():
        figure = Figure(
            figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH),
            layout="constrained" if constrained else None,
        )
        yield figure
        if constrained:
            # Laid out once, so that the page and the catalog have the same picture.
            for _ in range(LAYOUTS):
                figure.draw_without_rendering()
            figure.set_layout_engine("none")


@contextmanager
def any_letters() -> Iterator[None]:
    """Let a name be in letters that matplotlib's font lacks: a browser has others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def bare(figure: Figure, height: float) -> Axes:
    """Return axes that are not seen, over a whole figure, in its pixels from the top."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    return axes


def _inline(svg: str, name: str, about: str) -> str:
    body = svg[svg.index("<svg") :]
    for element in ("metadata", "style"):  # The page has its own of both.
        body = re.sub(rf"<{element}\b.*?</{element}>", "", body, flags=re.DOTALL)
    head, _, rest = body.partition(">")
    found = re.search(r'viewBox="([^"]*)"', head)
    box = found[1] if found else f"0 0 {WIDTH} {WIDTH}"
    # Several lie in one page, and names in a page are its own.
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = rest.replace("url(#", f"url(#{name}-")
    rest = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', rest)
    rest = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", rest)
    for colour, role in ROLES.items():
        rest = rest.replace(colour, f"var(--{role})")
    return (
        f'<svg class="picture" viewBox="{box}" role="img" '
        f'aria-label="{escape(about, quote=True)}">{rest}'
    )
