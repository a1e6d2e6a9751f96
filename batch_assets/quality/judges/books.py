"""Whether every row that came in went out, once."""

from batch_assets.lake.reconciliation import Books
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict


def validation_closes(evidence: DayEvidence) -> Verdict:
    """Judge whether raw rows are validated or quarantined, each once."""
    books = evidence.books()
    page, open_shards = books.total, books.open_after_validation()
    return Verdict(
        not open_shards and bool(books.pages),
        _closing("raw", "validated plus quarantined", open_shards, books),
        {
            "raw_rows": float(page.raw.rows),
            "validated_rows": float(page.validated.rows),
            "quarantined_rows": float(page.quarantined.rows),
            "open_shards": float(len(open_shards)),
        },
    )


def scoring_closes(evidence: DayEvidence) -> Verdict:
    """Judge whether validated rows are scored, carried over or dead, each once."""
    books = evidence.books()
    page, open_shards = books.total, books.open_after_scoring()
    return Verdict(
        not open_shards and bool(books.pages),
        _closing("validated", "scored plus carried plus dead", open_shards, books),
        {
            "validated_rows": float(page.validated.rows),
            "scored_rows": float(page.scored.rows),
            "carried_rows": float(page.carried.rows),
            "dead_letters": float(page.dead.rows),
            "open_shards": float(len(open_shards)),
        },
    )


def _closing(whole: str, sides: str, open_shards: list[int], books: Books) -> str:
    if not books.pages:
        return f"{books.day} is not committed"
    if not open_shards:
        return f"{whole} = {sides} in each of {len(books.pages)} shards"
    outdated = books.outdated_validated | books.outdated_scored
    if outdated.intersection(open_shards):
        return (
            f"{len(outdated)} shards were made of rows that have been replaced since: "
            f"{sorted(outdated)[:10]}; materialise what follows from {whole} rows again"
        )
    return f"{whole} is not {sides} in {len(open_shards)} shards: {open_shards[:10]}"
