"""The steps of a day as tests call them: a lake and a day first, and no run to make."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from batch_assets.incremental.baseline import Baseline
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.raw import Copied, RawSettings, copy_day
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.release import Release
from batch_assets.quality.validation import Validated, validate_day
from batch_assets.scoring.night import Night, score_day
from batch_assets.scoring.plan import Plan, ScoringSettings, plan_night
from batch_assets.scoring.replay import Replayed, replay_day
from batch_assets.spec import CHUNK_SECONDS, GateLimits

Guard = Callable[[], None]
Progress = Callable[[int], None]


def nothing() -> None:
    """Let every commit pass."""


def unseen(rows: int) -> None:
    """Show no progress."""


def take(
    lake: Lake,
    source: Source,
    context: ReadContext,
    *,
    schema: pa.Schema,
    shards: int,
    row_group_rows: int,
    allow_empty: bool = False,
    guard: Guard = nothing,
    progress: Progress = unseen,
    **changes: Any,
) -> Copied:
    """Copy or pin a day of a source; `changes` go to `copy_day`."""
    run = DayRun(lake, context.day, guard, progress)
    settings = RawSettings(schema, shards, row_group_rows, allow_empty)
    return copy_day(run, source, context, settings, **changes)


def validate_rows(
    lake: Lake,
    day: str,
    contract: Contract,
    *,
    guard: Guard = nothing,
    progress: Progress = unseen,
    **changes: Any,
) -> Validated:
    """Validate a day; `changes` go to `validate_day`."""
    return validate_day(DayRun(lake, day, guard, progress), contract, **changes)


def plan_day(
    lake: Lake,
    release: Release,
    day: str,
    *,
    chunk_rows: int,
    gates: GateLimits,
    chunk_seconds: float = CHUNK_SECONDS,
    computes_in: str = "float32",
    baseline: Baseline | None = None,
) -> Plan:
    """Plan the night of a day that is validated."""
    validated = lake.validated_features.parts(day)
    settings = ScoringSettings(gates, chunk_rows, chunk_seconds)
    return plan_night(
        lake,
        release,
        validated,
        settings,
        day=day,
        computes_in=computes_in,
        baseline=baseline,
    )


def score_rows(
    lake: Lake,
    release: Release,
    day: str,
    engine: Any,
    *,
    chunk_rows: int,
    gates: GateLimits,
    chunk_seconds: float = CHUNK_SECONDS,
    incremental: Incremental | None = None,
    guard: Guard = nothing,
    progress: Progress = unseen,
) -> Night:
    """Score a day that is validated."""
    settings = ScoringSettings(gates, chunk_rows, chunk_seconds, incremental)
    return score_day(DayRun(lake, day, guard, progress), release, engine, settings)


def replay_letters(
    lake: Lake,
    release: Release,
    day: str,
    engine: Any,
    *,
    chunk_rows: int,
    chunk_seconds: float = CHUNK_SECONDS,
    guard: Guard = nothing,
    progress: Progress = unseen,
) -> Replayed:
    """Score the dead letters of a day again."""
    settings = ScoringSettings(GateLimits(), chunk_rows, chunk_seconds)
    return replay_day(DayRun(lake, day, guard, progress), release, engine, settings)
