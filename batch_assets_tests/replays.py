"""A day with dead letters, replayed."""

from typing import Any

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.replay import Replayed
from batch_assets.spec import GateLimits
from batch_assets_tests.counting import Counting
from batch_assets_tests.steps import replay_letters
from batch_assets_tests.toys import DAY

GATES = GateLimits(max_dead_letter_share=0.1)


def replay(
    lake: Lake, release: Release, engine: Any = None, **changes: Any
) -> Replayed:
    arguments: dict[str, Any] = {"chunk_rows": 200} | changes
    return replay_letters(lake, release, DAY, engine or Counting(), **arguments)
