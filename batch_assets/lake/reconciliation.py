"""The books of a day: what must agree, and whether it does. It reads no file.

A total counts rows and sums their keys' hashes (`shards.checksum`): equal counts alone
can hide one row lost and another doubled. Every part carries its total in its receipt;
the books of a day are the sums of its parts, per shard.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from batch_assets.errors import BooksError
from batch_assets.lake.shards import WORD_MASK, checksum, hash_keys


@dataclass(frozen=True)
class ControlTotal:
    """How many rows, and the order-independent checksum of their keys."""

    rows: int = 0
    keys: int = 0

    @classmethod
    def of(cls, keys: pa.Array | pa.ChunkedArray) -> Self:
        """Return the total of a key column."""
        return cls.of_hashes(hash_keys(keys))

    @classmethod
    def of_hashes(cls, hashes: np.ndarray) -> Self:
        """Return the total of keys that are hashed already."""
        return cls(len(hashes), checksum(hashes))

    def __add__(self, other: "ControlTotal") -> "ControlTotal":
        return ControlTotal(
            self.rows + other.rows, (self.keys + other.keys) & WORD_MASK
        )

    def __sub__(self, other: "ControlTotal") -> "ControlTotal":
        return ControlTotal(
            self.rows - other.rows, (self.keys - other.keys) & WORD_MASK
        )

    def __str__(self) -> str:
        return f"{self.rows:,} rows, keys {self.keys:016x}"


def total_of(totals: Iterable[ControlTotal]) -> ControlTotal:
    """Return the sum of totals."""
    return sum(totals, ControlTotal())


@dataclass(frozen=True)
class Page:
    """The totals of one shard, or of a whole day.

    Each validated row is `scored` that night, `carried` over from the night before, or
    dead; or its whole shard could not be scored, and is `kept` as an earlier night left
    it.
    """

    raw: ControlTotal = field(default_factory=ControlTotal)
    validated: ControlTotal = field(default_factory=ControlTotal)
    quarantined: ControlTotal = field(default_factory=ControlTotal)
    scored: ControlTotal = field(default_factory=ControlTotal)
    dead: ControlTotal = field(default_factory=ControlTotal)
    carried: ControlTotal = field(default_factory=ControlTotal)
    kept: ControlTotal = field(default_factory=ControlTotal)

    @property
    def validation_closes(self) -> bool:
        return self.raw == self.validated + self.quarantined

    @property
    def scoring_closes(self) -> bool:
        return self.validated == self.predicted + self.dead + self.kept

    @property
    def predicted(self) -> ControlTotal:
        """The rows that have a prediction."""
        return self.scored + self.carried

    def sides(self) -> dict[str, ControlTotal]:
        """Return the totals by name, in the order in which rows go; `kept` if any are."""
        names = ["raw", "validated", "quarantined", "scored", "carried", "dead"]
        names += ["kept"] if self.kept.rows else []
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Books:
    """The pages of one day, by shard.

    `outdated_validated` and `outdated_scored` are the shards that were made of parts
    which have been replaced since: their totals may agree by chance.
    """

    day: str
    pages: Mapping[int, Page]
    outdated_validated: frozenset[int] = frozenset()
    outdated_scored: frozenset[int] = frozenset()

    @property
    def total(self) -> Page:
        """The whole day on one page."""
        pages = self.pages.values()
        return Page(
            total_of(p.raw for p in pages),
            total_of(p.validated for p in pages),
            total_of(p.quarantined for p in pages),
            total_of(p.scored for p in pages),
            total_of(p.dead for p in pages),
            total_of(p.carried for p in pages),
            total_of(p.kept for p in pages),
        )

    @property
    def kept(self) -> list[int]:
        """The shards that could not be scored, and serve what an earlier night left."""
        return [shard for shard, page in self.pages.items() if page.kept.rows]

    def open_after_validation(self) -> list[int]:
        """Return the shards in which raw is not validated plus quarantined."""
        return [
            shard
            for shard, page in self.pages.items()
            if not page.validation_closes or shard in self.outdated_validated
        ]

    def open_after_scoring(self) -> list[int]:
        """Return the shards in which validated is not scored plus carried plus dead."""
        return [
            shard
            for shard, page in self.pages.items()
            if not page.scoring_closes or shard in self.outdated_scored
        ]

    @property
    def closed(self) -> bool:
        """Whether every shard closes, after validation and after scoring."""
        return not (self.open_after_validation() or self.open_after_scoring())

    def by_shard(self) -> dict[str, Page]:
        """Return the page of each shard, and of the whole day as `all`."""
        return {str(shard): page for shard, page in self.pages.items()} | {
            "all": self.total
        }


def must_close(
    day: str,
    whole: Mapping[int, ControlTotal],
    **sides: Mapping[int, ControlTotal],
) -> None:
    """Refuse a day of which the sides of a shard don't add up to its whole.

    Args:
        day: the day.
        whole: what came in, by shard.
        sides: what went out, by shard; a shard that is not there had no rows.

    Raises:
        BooksError: with every total of the shard named.
    """
    none = ControlTotal()
    for shard, came_in in whole.items():
        went_out = {name: side.get(shard, none) for name, side in sides.items()}
        if came_in == total_of(went_out.values()):
            continue
        named = "; ".join(f"{name}: {total}" for name, total in went_out.items())
        msg = (
            f"the books of {day} don't close in shard {shard}: {came_in} came in, but "
            f"{named} went out. Nothing was committed; what is served stays."
        )
        raise BooksError(msg)
