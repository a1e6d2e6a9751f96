"""The books of a night as a flow, from raw to served: as wide as there are rows."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from batch_assets.reports.flow import Flow
from batch_assets.reports.pictures.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    SOFT,
    Picture,
    bare,
    drawing,
)

# In pixels: where a step begins, and what a bar and two lines of text take.
STEPS = (3, 90, 177, 264)
BAR, TALL, LEAST, ROOM, GAP = 9, 120, 2, 30, 6
TOP = 12


@dataclass
class _Box:
    """A step of the flow: so many rows, in one column, from one or two others."""

    name: str
    rows: int | None
    column: int
    colour: str
    comes_from: tuple[str, ...] = ()
    y: float = 0
    height: float = 0


def draw_flow(flow: Flow) -> Picture:
    """Draw where the rows of a night went, each number printed."""
    boxes = _boxes(flow)
    height = _place(boxes, max(flow.raw, 1))
    with drawing(height, constrained=False) as figure:
        axes = bare(figure, height)
        _draw_links(axes, boxes)
        for box in boxes:
            _draw_box(axes, box)
    told = ", ".join(
        f"{'none yet' if box.rows is None else f'{box.rows:,}'} {box.name}"
        for box in boxes
    )
    return Picture("flow", f"Rows from raw to served: {told}. {flow.words}", figure)


def _boxes(flow: Flow) -> list[_Box]:
    boxes = [_Box("raw", flow.raw, 0, BLUE)]
    boxes.append(_Box("validated", flow.validated, 1, BLUE, ("raw",)))
    if flow.validated is not None:
        boxes.append(_Box("quarantined", flow.quarantined, 1, AMBER, ("raw",)))
        boxes += _gap(flow.missing_after_validation, 1, "raw")
    boxes.append(_Box("scored", flow.scored, 2, BLUE, ("validated",)))
    if flow.scored is not None:
        boxes.append(_Box("carried", flow.carried, 2, GREY, ("validated",)))
        boxes.append(_Box("dead letters", flow.dead, 2, RED, ("validated",)))
        if flow.kept:
            boxes.append(_Box("kept", flow.kept, 2, AMBER, ("validated",)))
        boxes += _gap(flow.missing_after_scoring, 2, "validated")
    name = "in snapshot" if flow.in_version is not None else "no snapshot"
    boxes.append(_Box(name, flow.in_version, 3, GREEN, ("scored", "carried")))
    return boxes + _gap(flow.missing_in_version, 3, "scored")


def _gap(rows: int, column: int, comes_from: str) -> list[_Box]:
    if not rows:
        return []
    name = "missing" if rows > 0 else "too many"
    return [_Box(name, abs(rows), column, RED, (comes_from,) if rows > 0 else ())]


def _place(boxes: list[_Box], most: int) -> float:
    """Put each box below the others of its column; return how tall the picture is."""
    bottom = 0.0
    for column in range(len(STEPS)):
        y = float(TOP)
        for box in (one for one in boxes if one.column == column):
            rows = box.rows or 0
            box.y = y
            box.height = max(rows / most * TALL, LEAST) if rows else 0
            y += max(box.height, ROOM) + GAP
        bottom = max(bottom, y)
    return bottom + 2


def _draw_links(axes: Axes, boxes: list[_Box]) -> None:
    by_name = {box.name: box for box in boxes}
    # How far down a box what comes in and what goes out has come.
    left, right = {box.name: box.y for box in boxes}, {box.name: box.y for box in boxes}
    for box in boxes:
        sources = [by_name[name] for name in box.comes_from if name in by_name]
        whole = sum(source.rows or 0 for source in sources)
        for source in sources:
            if not box.rows or not source.rows:
                continue
            part = source.rows / whole if len(sources) > 1 else 1.0
            tall = min(box.height * part, source.height)
            _band(
                axes,
                (STEPS[source.column] + BAR, right[source.name]),
                (STEPS[box.column], left[box.name]),
                tall,
                box.colour,
            )
            right[source.name] += tall
            left[box.name] += tall


def _band(
    axes: Axes,
    begin: tuple[float, float],
    end: tuple[float, float],
    tall: float,
    colour: str,
) -> None:
    (x0, y0), (x1, y1) = begin, end
    middle = (x0 + x1) / 2
    points = [
        (x0, y0), (middle, y0), (middle, y1), (x1, y1),
        (x1, y1 + tall), (middle, y1 + tall), (middle, y0 + tall), (x0, y0 + tall),
        (x0, y0),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    shape = Path(points, [*codes, Path.CLOSEPOLY])
    axes.add_patch(PathPatch(shape, facecolor=colour, alpha=0.2, linewidth=0))


def _draw_box(axes: Axes, box: _Box) -> None:
    x = STEPS[box.column]
    if box.rows is None:
        axes.add_patch(
            Rectangle((x, box.y), BAR, ROOM, fill=False, edgecolor=GREY, linestyle=":")
        )
    elif box.rows:
        axes.add_patch(
            Rectangle((x, box.y), BAR, box.height, facecolor=box.colour, linewidth=0)
        )
    else:
        axes.add_patch(
            Rectangle((x, box.y + 2), BAR, ROOM - 8, fill=False, edgecolor=GREY, lw=0.8)
        )
    number = "not reached" if box.rows is None else f"{box.rows:,}"
    soft = not box.rows
    size = 10 if len(number) < 12 else 8
    axes.text(
        x + BAR + 4, box.y, number, color=SOFT if soft else INK, fontsize=size,
        fontweight="normal" if soft else "bold", va="top",
    )  # fmt: skip
    axes.text(x + BAR + 4, box.y + 13, box.name, color=SOFT, fontsize=9, va="top")
