"""How many rows of a day fall into which bin of each column: of all rows, and of segments.

Profiles of chunks add up to those of days, exact and in any order. What the bins are
stands in the release; a profile names them by their digest. It knows no model.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from batch_assets.errors import LakeError


class Segment(NamedTuple):
    """Rows that have one value in one column, as words."""

    column: str
    value: str


@dataclass(frozen=True)
class Profile:
    """The counts of some rows.

    Attributes:
        layout: the digest of bins and segments; only equal ones add up.
        segments: in the order of their counts.
        columns: by name of the column, int32 (1 + segments, bins), packed: of all rows,
            and of each segment.
        partial: whether rows are not in it that took over a prediction.
        scores: by name of an output that is a probability, the same in finer bins.
        items: by name of a ranking, how often each item of the catalogue is in it, of all
            rows.
    """

    layout: str
    segments: tuple[Segment, ...]
    columns: dict[str, str]
    partial: bool = False
    scores: dict[str, str] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_counts(
        cls,
        layout: str,
        segments: Sequence[Segment],
        counts: Mapping[str, np.ndarray],
        *,
        partial: bool = False,
        scores: Mapping[str, np.ndarray] | None = None,
        items: Mapping[str, np.ndarray] | None = None,
    ) -> Self:
        """Pack counts, (1 + segments, bins) of each column; of items (1, places)."""
        packed, fine, found = (
            {name: _packed(one) for name, one in each.items()}
            for each in (counts, scores or {}, items or {})
        )
        return cls(layout, tuple(segments), packed, partial, fine, found)

    def counts(self) -> dict[str, np.ndarray]:
        """Return the counts of each column, int64 (1 + segments, bins)."""
        return self._unpacked(self.columns)

    def score_counts(self) -> dict[str, np.ndarray]:
        """Return the counts of each probability, int64 (1 + segments, finer bins)."""
        return self._unpacked(self.scores)

    def item_counts(self) -> dict[str, np.ndarray]:
        """Return how often each item is in each ranking, int64 (1, places)."""
        return {name: _unpacked(one, 1) for name, one in self.items.items()}

    def _unpacked(self, packed: Mapping[str, str]) -> dict[str, np.ndarray]:
        lines = 1 + len(self.segments)
        return {name: _unpacked(one, lines) for name, one in packed.items()}

    def facts(self) -> dict[str, Any]:
        """Return it as it lies on disk."""
        return asdict(self)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Read it from what lies on disk."""
        segments = tuple(Segment(*one) for one in facts["segments"])
        return cls(
            facts["layout"],
            segments,
            facts["columns"],
            facts["partial"],
            facts.get("scores", {}),
            facts.get("items", {}),
        )


def add_profiles(profiles: Sequence[Profile]) -> Profile | None:
    """Return the profile of all rows together; None of none.

    Raises:
        LakeError: they are of other bins or segments.
    """
    if not profiles:
        return None
    first = profiles[0]
    if any(one.layout != first.layout for one in profiles):
        msg = f"profiles of {len({p.layout for p in profiles})} layouts don't add up"
        raise LakeError(msg)
    return Profile.of_counts(
        first.layout,
        first.segments,
        _added([one.counts() for one in profiles]),
        partial=any(one.partial for one in profiles),
        scores=_added([one.score_counts() for one in profiles]),
        items=_added([one.item_counts() for one in profiles]),
    )


def _added(counts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sums of what all of them count."""
    names = [n for n in counts[0] if all(n in one for one in counts)]
    return {name: np.sum([one[name] for one in counts], axis=0) for name in names}


def _packed(counts: np.ndarray) -> str:
    data = np.ascontiguousarray(counts, dtype="<i4").tobytes()
    return base64.b64encode(zlib.compress(data)).decode()


def _unpacked(packed: str, lines: int) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(packed))
    return np.frombuffer(data, "<i4").reshape(lines, -1).astype(np.int64)
