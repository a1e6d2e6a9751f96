"""Days as gates judge them, made by hand: books, and committed predictions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from batch_assets.lake.commits import ScoringCommit
from batch_assets.lake.page_layout import NUMBERS
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import OutputSummary, PredictionsReceipt
from batch_assets.lake.reconciliation import Books, ControlTotal, Page
from batch_assets.models.reference import histogram
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits
from batch_assets_tests.toys import DAY, NAME, expected_risk, make_contract, make_rows


def verdict_of(gate: str, evidence: DayEvidence) -> Verdict:
    """What a gate of the table says."""
    (judging,) = (row for row in GATES if row.name == gate)
    return judging.verdict(evidence)


def of_books(books: Books, limits: GateLimits | None = None) -> DayEvidence:
    """Evidence that is nothing but books."""
    return DayEvidence(DAY, limits or GateLimits(), books=lambda: books)


def books_of(raw: int, quarantined: int = 0, scored: int = 0, dead: int = 0) -> Books:
    """Books that close, of one shard with so many rows on each side."""
    validated = raw - quarantined
    return Books(
        DAY,
        {
            0: Page(
                ControlTotal(raw, raw),
                ControlTotal(validated, validated),
                ControlTotal(quarantined, quarantined),
                ControlTotal(scored, scored),
                ControlTotal(dead, dead),
            )
        },
    )


def predict(
    lake,
    release,
    *,
    risk: list | None = None,
    stamp: str | None = None,
    model: str = NAME,
    row_digests: list[str] | None = None,
    facts: dict | None = None,
    told: dict | None = None,
) -> list[Part]:
    """Commit a day of predictions of one shard, as they should be but for what is given.

    `told` replaces what the receipt says of the output.
    """
    if risk is None:
        risk = expected_risk(make_rows(300, seed=2)).tolist()
    digests = row_digests or [release.digest] * len(risk)
    rows = pa.table(
        {
            "user_id": range(len(risk)),
            "risk": pa.array(risk, pa.float32()),
            "model_name": [model] * len(risk),
            "model_version": digests,
        },
        schema=make_contract().prediction_schema(),
    )
    known = [x for x in risk if x is not None and abs(x) < float("inf")]
    counts = histogram(np.array(known), release.manifest.reference["risk"].edges)
    # A receipt with NaN equals not even itself: it could not be committed.
    numbers = np.array(known if len(known) == len(risk) else [], np.float64)
    span = {
        "rows": len(risk),
        "sum": sum(known),
        "counts": counts,
        "min": float(numbers.min()) if len(numbers) else None,
        "max": float(numbers.max()) if len(numbers) else None,
    }
    receipt = PredictionsReceipt(
        DAY,
        0,
        0,
        "a" * 64,
        ControlTotal.of(rows["user_id"]),
        model=model,
        release=stamp or release.digest,
        outputs={"risk": OutputSummary(**(span | (told or {})))},
    )
    table = lake.predictions
    path = table.part_path(DAY, 0, "a" * 64, 0)
    with PartWriter(path, rows.schema, row_group_rows=100, layout=NUMBERS) as writer:
        writer.write(rows)
        part = writer.finish(receipt)
    commit = ScoringCommit("a" * 64, NAME, release.digest, scored=len(rows), dead=0)
    table.commit_day(DAY, [part], rows.schema, replace(commit, **(facts or {})))
    return [part]
