"""Pictures of what an asset has just made, for its own page in the catalog.

They are drawn of receipts that are there already, and an asset does not fail for one. What
draws is imported when something is drawn: Dagster loads definitions far more often.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_assets.assets.pipeline import picture_metadata
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.quality.nights import profile_of
from batch_assets.quality.validation import Validated
from batch_assets.reports.histograms import histograms_of
from batch_assets.reports.left_out import dead_letters_of, quarantined_of
from batch_assets.scoring.night import Night
from batch_assets.scoring.replay import Replayed

if TYPE_CHECKING:
    from batch_assets.reports.pictures.style import Picture

# Each stays in the log of events for good: of one kind, so many.
MOST = 2


def shown(pictures: "Iterable[Picture | None]") -> dict[str, Any]:
    """Return pictures as metadata, by their names; of those of one kind, the first two."""
    kinds: dict[str, int] = {}
    found = {}
    for one in pictures:
        if one is None:
            continue
        kind = one.name.partition("-")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= MOST:
            found[one.name.replace("-", "_")] = picture_metadata(one.about, one.png())
    return found


def score_pictures(
    context: dg.AssetExecutionContext, release: Release, done: Night | Replayed
) -> dict[str, Any]:
    """Return how the scores of a night are distributed, against the reference."""

    def draw() -> "list[Picture]":
        from batch_assets.reports.pictures.scores_picture import draw_scores

        parts = done.parts
        found = histograms_of(parts, profile_of(parts), release.manifest)
        return [draw_scores(one) for one in found[:MOST]]

    return _drawn(context, draw)


def quarantine_pictures(
    context: dg.AssetExecutionContext, lake: Lake, day: str, done: Validated
) -> dict[str, Any]:
    """Return why rows of a day are in quarantine, if any are."""

    def draw() -> "list[Picture]":
        found = quarantined_of(lake, day, done.rules)
        if not found.reasons:
            return []
        from batch_assets.reports.pictures.reasons_picture import draw_reasons
        from batch_assets.reports.pictures.style import AMBER

        return [draw_reasons("quarantine", found, AMBER)]

    return _drawn(context, draw)


def dead_letter_pictures(
    context: dg.AssetExecutionContext, lake: Lake, day: str
) -> dict[str, Any]:
    """Return why rows of a day are dead letters, if any are."""

    def draw() -> "list[Picture]":
        found = dead_letters_of(lake, day)
        if not found.reasons:
            return []
        from batch_assets.reports.pictures.reasons_picture import draw_reasons
        from batch_assets.reports.pictures.style import RED

        return [draw_reasons("dead", found, RED)]

    return _drawn(context, draw)


def _drawn(
    context: dg.AssetExecutionContext, draw: "Callable[[], list[Picture]]"
) -> dict[str, Any]:
    try:
        return shown(draw())
    # The day is committed by now, whatever is wrong with its picture.
    except Exception as error:  # noqa: BLE001
        context.log.warning("a picture can't be drawn: %s", error)
        return {}
