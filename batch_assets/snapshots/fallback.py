"""What a key gets that the night does not cover: the outputs of its segment.

A version holds them in its manifest, as numbers, like those of its rows, so that every
reader and every remote store has them. Whoever asks says which segment a key is of: of
a key that the night does not know, nothing else knows it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from batch_assets.snapshots.forms import Assembly, Denied, Form
from batch_assets.strict import StrictModel


class FallbackRow(StrictModel):
    """The outputs of one segment, in the order of the version's; null is all others."""

    segment: str | None
    outputs: tuple[int | float, ...]


class Fallback(StrictModel):
    """A row for each segment; `by` is what the pipeline calls a segment."""

    by: str | None = None
    rows: tuple[FallbackRow, ...]


class Fallbacks:
    """Puts the outputs of a segment together, as those of a key."""

    def __init__(
        self,
        fallback: Fallback | None,
        outputs: Sequence[str],
        forms: Iterable[Form],
        denied: Denied | None = None,
    ) -> None:
        """Take the rows of a version, of which nothing is there without a fallback."""
        rows = fallback.rows if fallback else ()
        self._rows = {row.segment: row.outputs for row in rows}
        self._assembly = Assembly(outputs, forms, [outputs], denied)

    def of(self, segment: int | str | None) -> dict[str, Any] | None:
        """Return the outputs of a segment, or of all others; None if there are none."""
        known = None if segment is None else str(segment)
        row = self._rows.get(known) or self._rows.get(None)
        return self._assembly.row([row]) if row else None
