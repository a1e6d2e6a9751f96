"""The books of a day as a flow: where its rows went, and whether that adds up."""

from dataclasses import dataclass

from batch_assets.lake.reconciliation import Books
from batch_assets.reports.wording import count


@dataclass(frozen=True)
class Flow:
    """The rows of a day at each step, from raw to served; None where it was not reached.

    Attributes:
        raw: as the source gave them.
        validated: that keep the contract.
        quarantined: that break it.
        scored: by the model, that night.
        carried: over from the night before.
        dead: that could not be scored.
        in_version: of the version that was made of the day.
        open_shards: how many shards don't close, in rows, keys or what they were made of.
        shards: how many there are.
        kept: rows of shards that could not be scored, and serve an earlier night's.
    """

    raw: int = 0
    validated: int | None = None
    quarantined: int | None = None
    scored: int | None = None
    carried: int | None = None
    dead: int | None = None
    in_version: int | None = None
    open_shards: int = 0
    shards: int = 0
    kept: int | None = None

    @property
    def predicted(self) -> int | None:
        """The rows that have a prediction."""
        if self.scored is None:
            return None
        return self.scored + (self.carried or 0)

    @property
    def missing_after_validation(self) -> int:
        """Raw rows that are neither validated nor quarantined; below 0 if too many are."""
        if self.validated is None:
            return 0
        return self.raw - self.validated - (self.quarantined or 0)

    @property
    def missing_after_scoring(self) -> int:
        """Validated rows that were neither predicted nor are dead; below 0 as above."""
        if self.validated is None or self.predicted is None:
            return 0
        return self.validated - self.predicted - (self.dead or 0) - (self.kept or 0)

    @property
    def missing_in_version(self) -> int:
        """Predicted rows that the version lacks; below 0 as above."""
        if self.predicted is None or self.in_version is None:
            return 0
        return self.predicted - self.in_version

    @property
    def adds_up(self) -> bool:
        """Whether each row that came in went out once, as far as the night came."""
        return not self.open_shards and not any(self._gaps().values())

    @property
    def sums(self) -> list[str]:
        """What was added up, an equation for each step that was reached."""
        found = []
        if self.validated is not None:
            found.append(
                f"{self.raw:,} raw = {self.validated:,} validated + "
                f"{self.quarantined or 0:,} quarantined"
            )
        if self.validated is not None and self.scored is not None:
            found.append(
                f"{self.validated:,} validated = {self.scored:,} scored + "
                f"{self.carried or 0:,} carried + {self.dead or 0:,} dead letters"
                + (f" + {self.kept:,} kept" if self.kept else "")
            )
        if self.predicted is not None and self.in_version is not None:
            found.append(
                f"{self.predicted:,} predicted = {self.in_version:,} in the snapshot"
            )
        # Of an equation that is none, nobody is to read that it is one.
        for at, gap in enumerate(list(self._gaps().values())[: len(found)]):
            if gap:
                found[at] = found[at].replace("=", "≠", 1)
        return found

    @property
    def words(self) -> str:
        """Say in a sentence whether it adds up, and by how many rows it does not."""
        gaps = {step: gap for step, gap in self._gaps().items() if gap}
        if gaps:
            told = [
                f"{count(abs(gap), 'row')} {'missing' if gap > 0 else 'too many'} {step}"
                for step, gap in gaps.items()
            ]
            return f"It does not add up: {'; '.join(told)}."
        if self.open_shards:
            return (
                f"It does not add up: the rows agree, but {self.open_shards:,} of "
                f"{count(self.shards, 'shard')} hold other keys, or were made of parts "
                "that have been replaced since."
            )
        if self.validated is None:
            return "There is nothing to add up yet: the rows were not validated."
        so_far = "" if self.in_version is not None else " as far as the night came"
        return f"It adds up{so_far}, with the same keys in each of {count(self.shards, 'shard')}."

    def _gaps(self) -> dict[str, int]:
        return {
            "after validation": self.missing_after_validation,
            "after scoring": self.missing_after_scoring,
            "in the snapshot": self.missing_in_version,
        }


def flow_of(
    books: Books, *, validated: bool, scored: bool, in_version: int | None
) -> Flow:
    """Return the flow that books make.

    Args:
        books: of the day.
        validated: whether the night came so far.
        scored: the same.
        in_version: the rows of the version that was made of the day, if there is one.
    """
    page = books.total
    still_open = set(books.open_after_validation() if validated else [])
    still_open |= set(books.open_after_scoring() if scored else [])
    return Flow(
        raw=page.raw.rows,
        validated=page.validated.rows if validated else None,
        quarantined=page.quarantined.rows if validated else None,
        scored=page.scored.rows if scored else None,
        carried=page.carried.rows if scored else None,
        dead=page.dead.rows if scored else None,
        kept=page.kept.rows if scored else None,
        in_version=in_version,
        open_shards=len(still_open),
        shards=len(books.pages),
    )
