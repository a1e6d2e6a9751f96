"""The verdicts of a day, as they were when it was to be published, kept for good.

They lie in the table `gate_verdicts`, a row for each gate. It judges nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from batch_assets.errors import LostRowsError
from batch_assets.lake.overrides import Override
from batch_assets.lake.tables import Lake
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits


@dataclass(frozen=True)
class JudgedDay:
    """What was said of a day: when, of which predictions, by which limits, and what.

    `predictions` is the digest of the very bytes, as `digest_of` tells it.
    """

    predictions: str
    judged_at: datetime
    limits: GateLimits
    verdicts: tuple[Verdict, ...]


def record_verdicts(
    lake: Lake,
    day: str,
    predictions: str,
    verdicts: Sequence[Verdict],
    limits: GateLimits,
) -> None:
    """Keep what every gate says of a day; what is known already is not written again.

    Raises:
        CommitError: the table can't be written.
    """
    try:
        known = read_verdicts(lake, day)
    except LostRowsError:
        known = None  # What is lost is written anew.
    same = known is not None and (known.predictions, known.verdicts, known.limits) == (
        predictions,
        tuple(verdicts),
        limits,
    )
    if same:
        return
    now, asked = datetime.now(UTC), limits.model_dump_json()
    rows = [
        {
            "day": day,
            "predictions": predictions,
            "judged_at": now,
            "gate": verdict.gate,
            "passed": verdict.passed,
            "blocks": verdict.blocks,
            "why": verdict.why,
            "moved_by": verdict.moved_by,
            "overridable": verdict.overridable,
            "numbers": list(verdict.numbers.items()),
            "facts": list(verdict.facts.items()),
            "limits": asked,
            "overridden_at": verdict.override and verdict.override.at,
            "overridden_by": verdict.override and verdict.override.by,
            "override_why": verdict.override and verdict.override.why,
            "override_until": verdict.override and verdict.override.until,
        }
        for verdict in verdicts
    ]
    table = lake.gate_verdicts
    table.write(day, pa.Table.from_pylist(rows, table.schema), predictions=predictions)


def read_verdicts(lake: Lake, day: str) -> JudgedDay | None:
    """Return what was said last of a day that somebody wanted to publish, if anybody did."""
    rows = lake.gate_verdicts.read(day, day).to_pylist()
    if not rows:
        return None
    newest = max(row["judged_at"] for row in rows)
    rows = [row for row in rows if row["judged_at"] == newest]
    return JudgedDay(
        rows[0]["predictions"],
        newest,
        GateLimits.model_validate_json(rows[0]["limits"]),
        tuple(
            Verdict(
                row["passed"],
                row["why"],
                dict(row["numbers"]),
                dict(row["facts"]),
                row["blocks"],
                row["gate"],
                row["moved_by"],
                row["overridable"],
                _override(day, row),
            )
            for row in rows
        ),
    )


def _override(day: str, row: dict[str, object]) -> Override | None:
    if row["overridden_by"] is None:
        return None
    return Override.model_validate(
        {
            "at": row["overridden_at"],
            "day": day,
            "gate": row["gate"],
            "by": row["overridden_by"],
            "why": row["override_why"],
            "until": row["override_until"],
        }
    )
