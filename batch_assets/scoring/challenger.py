"""Score days with a release that is not approved, beside the one that is.

What it says lies in tables of its own, and is never served. It knows neither Dagster nor
how it is judged.
"""

import math
from dataclasses import replace

from batch_assets.errors import ContractError
from batch_assets.lake.day_run import DayRun
from batch_assets.models.release import Release
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.night import Night, score_day
from batch_assets.scoring.plan import ScoringSettings


def shards_of(share: float, shards: int) -> range | None:
    """Return the shards that are at least a share of the rows; None for all of them.

    A row's shard is a hash of its key, so that some shards are a sample of the rows.
    """
    some = math.ceil(share * shards)
    return range(some) if some < shards else None


def score_challenger(
    run: DayRun,
    release: Release,
    engine: Engine,
    settings: ScoringSettings,
    shards: range | None = None,
) -> tuple[DayRun, Night]:
    """Score a validated day with a challenger, into tables of its own.

    Args:
        run: the day.
        release: the challenger, its bytes verified.
        engine: where to run.
        settings: of the pipeline; nothing is taken over from the night before.
        shards: those to score; all if left out.

    Returns:
        The same run with the challenger's tables, and what the night left there.

    Raises:
        ContractError: the challenger reads other features than the day was validated for.
        GateError, BooksError, ScoringError: as `score_day`.
    """
    lake = run.lake.shadow(release.digest, shards)
    own = replace(run, lake=lake)
    asked = replace(settings, incremental=None)
    parts = lake.validated_features.parts(run.day)
    if parts and parts[0].receipt.contract != release.contract.digest:
        msg = (
            f"the challenger {release.name} {release.short} asks for other features than "
            f"those that {run.day} was validated for. Score it in a pipeline of its own, "
            "with its own source"
        )
        raise ContractError(msg)
    return own, score_day(own, release, engine, asked)
