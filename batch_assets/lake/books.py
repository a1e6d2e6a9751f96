"""The books of a day, made from the receipts of its parts. It reads no row."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import (
    DeadLettersReceipt,
    PredictionsReceipt,
    QuarantineReceipt,
    RawReceipt,
    Receipt,
    ValidatedReceipt,
)
from batch_assets.lake.reconciliation import Books, ControlTotal, Page

R = TypeVar("R", bound=Receipt)


def totals_by_shard(
    parts: Iterable[Part[R]],
    of: Callable[[R], ControlTotal] = lambda receipt: receipt.total,
) -> dict[int, ControlTotal]:
    """Return what the receipts of each shard add up to.

    Args:
        parts: of any shards.
        of: what of a receipt is added up; its total if left out.
    """
    totals: dict[int, ControlTotal] = {}
    for part in parts:
        before = totals.get(part.shard, ControlTotal())
        totals[part.shard] = before + of(part.receipt)
    return totals


def carried_of(receipt: PredictionsReceipt) -> ControlTotal:
    """Return the rows of a part that were taken over from the night before."""
    return receipt.carried_total


def scored_of(receipt: PredictionsReceipt) -> ControlTotal:
    """Return the rows of a part that were scored that night."""
    return receipt.total - receipt.carried_total


def books_of(
    day: str,
    *,
    raw: Sequence[Part[RawReceipt]] = (),
    validated: Sequence[Part[ValidatedReceipt]],
    quarantined: Sequence[Part[QuarantineReceipt]] = (),
    scored: Sequence[Part[PredictionsReceipt]] = (),
    dead: Sequence[Part[DeadLettersReceipt]] = (),
    failed: Collection[int] = (),
) -> Books:
    """Return the books that these parts make.

    Args:
        day: the day.
        raw: its parts of each table.
        validated: likewise.
        quarantined: likewise.
        scored: likewise.
        dead: likewise.
        failed: the shards that the day's commit says could not be scored.
    """
    sides = {
        "raw": totals_by_shard(raw),
        "validated": totals_by_shard(validated),
        "quarantined": totals_by_shard(quarantined),
        "scored": totals_by_shard(scored, scored_of),
        "carried": totals_by_shard(scored, carried_of),
        "dead": totals_by_shard(dead),
    }
    done = {**sides["scored"], **sides["dead"]}
    sides["kept"] = {
        shard: total
        for shard, total in sides["validated"].items()
        if shard in failed and shard not in done
    }
    shards = sorted({shard for side in sides.values() for shard in side})
    return Books(
        day,
        {
            shard: Page(**{s: t.get(shard, ControlTotal()) for s, t in sides.items()})
            for shard in shards
        },
        outdated_validated=_outdated([*validated, *quarantined], raw)
        | _of_another_job(quarantined, validated),
        outdated_scored=_outdated([*scored, *dead], validated)
        | _of_another_job(dead, scored),
    )


def _outdated(
    parts: Sequence[Part[Receipt]], committed: Sequence[Part[Receipt]]
) -> frozenset[int]:
    """The shards of parts that were made of a part which is not committed now."""
    names = {(part.shard, part.path.name) for part in committed}
    return frozenset(
        part.shard for part in parts if (part.shard, part.receipt.made_of) not in names
    )


def _of_another_job(
    side: Sequence[Part[Receipt]], main: Sequence[Part[Receipt]]
) -> frozenset[int]:
    """The shards of a side table's parts that another run made than the main table's."""
    jobs = {part.receipt.job for part in main}
    return frozenset(p.shard for p in side if jobs and p.receipt.job not in jobs)
