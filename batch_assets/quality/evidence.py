"""What the gates of a day judge it by, read from the lake when a judge asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Self

from batch_assets.lake.commits import ScoringCommit
from batch_assets.lake.delta_table import DayCommit
from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.reconciliation import Books
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Manifest, Release
from batch_assets.quality.changes import Change, Nights
from batch_assets.quality.nights import changes_of, profile_of, read_nights
from batch_assets.spec import GateLimits


def _not_given(*_: str) -> Any:
    msg = "a judge asks for evidence that was not given"
    raise RuntimeError(msg)


@dataclass(frozen=True)
class DayEvidence:
    """The evidence of one day; each piece is a function that reads it.

    Attributes:
        day: the day, as `2026-01-05`.
        limits: of the pipeline.
        books: the day's books.
        rows_by_day: the raw rows of each committed day.
        parts: the day's predictions.
        commit: that of the predictions.
        manifest: of the release that scored the day, its bytes verified.
        approved: the release of a name and a digest, if it is approved for `batch`.
        profile: of the day's rows, if the release has bins for them.
        nights: that it can be compared with.
        graph_digest: the release that Dagster recorded with the day, if it did.
    """

    day: str
    limits: GateLimits
    books: Callable[[], Books] = _not_given
    rows_by_day: Callable[[], dict[str, int]] = _not_given
    parts: Callable[[], list[Part[PredictionsReceipt]]] = _not_given
    commit: Callable[[], DayCommit[ScoringCommit] | None] = _not_given
    manifest: Callable[[], Manifest] = _not_given
    approved: Callable[[str, str], Release] = _not_given
    profile: Callable[[], Profile | None] = lambda: None
    nights: Callable[[], Nights] = lambda: Nights((), {})
    graph_digest: Callable[[], str | None] = lambda: None

    @classmethod
    def of_day(
        cls,
        lake: Lake,
        registry: Registry,
        day: str,
        limits: GateLimits,
        *,
        scoring: bool = True,
    ) -> Self:
        """Return the evidence that lies in the lake and the registry, each read once.

        Args:
            lake: the pipeline's tables.
            registry: the models.
            day: the day.
            limits: of the pipeline.
            scoring: whether the books look beyond validation.
        """
        parts = cache(lambda: lake.predictions.parts(day))

        @cache
        def manifest() -> Manifest:
            receipt = parts()[0].receipt
            return registry.verify(receipt.model, receipt.release).manifest

        @cache
        def profile() -> Profile | None:
            return profile_of(parts())

        @cache
        def nights() -> Nights:
            known = profile()
            return read_nights(lake, day, known) if known else Nights((), {})

        return cls(
            day,
            limits,
            books=cache(lambda: lake.books(day, scoring=scoring)),
            rows_by_day=cache(lake.raw_features.rows_by_day),
            parts=parts,
            profile=profile,
            nights=nights,
            commit=cache(lambda: lake.predictions.last_commit(day)),
            manifest=manifest,
            approved=lambda name, digest: registry.require(name, digest, "batch"),
        )

    @cached_property
    def changes(self) -> list[Change]:
        """How unlike the nights before the day is, found once for all gates."""
        profile = self.profile()
        if profile is None:
            return []
        return changes_of(self.day, profile, self.nights(), self.manifest())
