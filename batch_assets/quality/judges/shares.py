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
    """Judge how many of the raw rows have a prediction."""
    page, limit = evidence.books().total, evidence.limits.min_coverage
    share = page.predicted.rows / page.raw.rows if page.raw.rows else 1.0
    return Verdict(
        share >= limit,
        f"{page.predicted.rows:,} of {page.raw.rows:,} raw rows are scored: {share:.4f} of "
        f"them, at least {limit} must be",
        {"coverage": share, "limit": limit},
    )


def _at_most(limit: float, part: int, whole: int, what: str) -> Verdict:
    share = part / whole if whole else 0.0
    return Verdict(
        share <= limit,
        f"{part:,} of {whole:,} {what}: {share:.4f} of them, at most {limit} may be",
        {"share": share, "limit": limit},
    )
