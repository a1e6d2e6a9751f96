"""Whether few enough rows are lost on the way, and enough come out."""

import math

from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits


def quarantine_share(evidence: DayEvidence) -> Verdict:
    """Judge how many of the raw rows are in quarantine."""
    page = evidence.books().total
    return _at_most(
        evidence.limits.max_quarantine_share,
        page.quarantined.rows,
        page.raw.rows,
        "raw rows are quarantined",
    )


def dead_letter_share(evidence: DayEvidence) -> Verdict:
    """Judge how many of the validated rows are dead letters."""
    page = evidence.books().total
    return _at_most(
        evidence.limits.max_dead_letter_share,
        page.dead.rows,
        page.validated.rows,
        "validated rows are dead letters",
    )


def most_dead_letters(rows: int, gates: GateLimits) -> int:
    """Return how many of the validated rows may be dead before `dead_letter_share` shuts."""
    most = math.floor(rows * gates.max_dead_letter_share)
    # The product may be rounded down below a count whose share is just the limit.
    within = rows and (most + 1) / rows <= gates.max_dead_letter_share
    return most + 1 if within else most


def coverage(evidence: DayEvidence) -> Verdict:
    """Judge how many of the raw rows have a prediction, in shards that were scored."""
    books, limit = evidence.books(), evidence.limits.min_coverage
    kept = books.kept
    raw = books.total.raw.rows - sum(books.pages[shard].raw.rows for shard in kept)
    scored = books.total.predicted.rows
    share = scored / raw if raw else 1.0
    beside = f", {len(kept)} shards aside that were kept" if kept else ""
    return Verdict(
        share >= limit,
        f"{scored:,} of {raw:,} raw rows are scored: {share:.4f} of them, at least {limit} "
        f"must be{beside}",
        {"coverage": share, "limit": limit},
    )


def kept_shards(evidence: DayEvidence) -> Verdict:
    """Judge whether every shard was scored; some may serve what an earlier night left."""
    books, limit = evidence.books(), evidence.limits.max_kept_share
    kept, shards = books.kept, len(books.pages)
    share = len(kept) / shards if shards else 0.0
    rows = books.total.kept.rows
    why = f"all of {shards} shards are of the day"
    if kept:
        why = (
            f"shards {kept[:10]} of {shards} could not be scored, {rows:,} rows of them; "
            f"readers get what an earlier night left there. {share:.2f} of the shards, at "
            f"most {limit} may be"
        )
    return Verdict(
        not kept,
        why,
        {"kept_shards": float(len(kept)), "kept_rows": float(rows), "limit": limit},
        blocks=share > limit,
    )


def _at_most(limit: float, part: int, whole: int, what: str) -> Verdict:
    share = part / whole if whole else 0.0
    return Verdict(
        share <= limit,
        f"{part:,} of {whole:,} {what}: {share:.4f} of them, at most {limit} may be",
        {"share": share, "limit": limit},
    )
