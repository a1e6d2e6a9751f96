"""Why rows were left out of a night: a bar for each reason, as long as it has rows."""

from matplotlib.patches import Rectangle

from batch_assets.reports.facts import LeftOut
from batch_assets.reports.pictures.style import INK, SOFT, WIDTH, Picture, bare, drawing
from batch_assets.reports.wording import count, share, shortened

LANE, BAR, LEFT = 36, 9, 4
# So much of a reason fits into a line.
LONGEST = 52


def draw_reasons(name: str, left_out: LeftOut, colour: str) -> Picture:
    """Draw the reasons of rows that were left out, the most rows first."""
    height = LANE * len(left_out.reasons) + 6
    most = max(reason.rows for reason in left_out.reasons)
    whole = left_out.looked_at or left_out.rows
    with drawing(height, constrained=False) as figure:
        axes = bare(figure, height)
        for at, reason in enumerate(left_out.reasons):
            y = at * LANE + 4
            axes.text(
                LEFT, y, shortened(reason.words, LONGEST), color=INK, fontsize=9.5,
                va="top",
            )  # fmt: skip
            told = f"{reason.rows:,} ({share(reason.rows, whole)})"
            room = WIDTH - LEFT - 120
            long = max(reason.rows / most * room, 2)
            axes.add_patch(
                Rectangle((LEFT, y + 17), long, BAR, facecolor=colour, linewidth=0)
            )
            axes.text(
                LEFT + long + 5, y + 15.5, told, color=SOFT, fontsize=9.5, va="top"
            )
    told = "; ".join(f"{one.words}: {one.rows:,}" for one in left_out.reasons)
    about = f"Reasons of {count(left_out.rows, 'row')}: {told}."
    return Picture(name, about, figure)
