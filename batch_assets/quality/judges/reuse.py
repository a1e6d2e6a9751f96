"""Whether the rows that took over a prediction are what the model says of them now."""

from batch_assets.lake.commits import BaselineDecision
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict


def carried_rows(evidence: DayEvidence) -> Verdict:
    """Judge what came of the rows that were scored although they could be carried over."""
    commit = evidence.commit()
    decision = commit.facts.decision if commit else BaselineDecision()
    carried = evidence.books().total.carried.rows
    rescored = commit.facts.rescored if commit else 0
    why = (
        f"{carried:,} rows were taken over, {rescored:,} of them scored again and equal"
    )
    if not carried:
        why = f"every row was scored: {decision.why or 'the night stands alone'}"
    return Verdict(
        not decision.refused,
        why,
        {"carried_rows": float(carried), "rescored_rows": float(rescored)},
        {"built_on": decision.built_on or "none"},
    )
