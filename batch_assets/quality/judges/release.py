"""Whether one approved release scored every row of a day."""

from collections.abc import Mapping

from batch_assets.errors import ReleaseError
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges.footers import column_spans, query
from batch_assets.quality.verdict import Verdict


def one_release(evidence: DayEvidence) -> Verdict:
    """Judge whether graph, registry, commit, files and rows name one approved release."""
    parts, commit = evidence.parts(), evidence.commit()
    if commit is None or not parts:
        return Verdict(passed=False, why=f"{evidence.day} is not committed")
    rows = set().union(*(_releases_of(part) for part in parts))
    names = {name for name, _ in rows}
    digests: dict[str, set[str | None]] = {
        "rows": {digest for _, digest in rows},
        "files": {part.receipt.release for part in parts},
        "commit": {commit.facts.release},
    }
    if (graph_digest := evidence.graph_digest()) is not None:
        digests["graph"] = {graph_digest}
    facts = {
        where: ", ".join(sorted(map(str, named))) for where, named in digests.items()
    }
    numbers = {"releases": float(len(set().union(*digests.values()) - {None}))}
    digest = _common(digests)
    if digest is None or len(names) > 1:
        why = f"expected one digest everywhere, got {facts}"
        return Verdict(passed=False, why=why, numbers=numbers, facts=facts)
    try:
        release = evidence.approved(commit.facts.model, digest)
    except ReleaseError as error:
        return Verdict(passed=False, why=str(error), numbers=numbers, facts=facts)
    why = f"release {release.name} {release.short}, approved for batch, on every row"
    return Verdict(passed=True, why=why, numbers=numbers, facts=facts)


def _common(digests: Mapping[str, set[str | None]]) -> str | None:
    """Return the one digest that is named everywhere; a day without rows names none there."""
    named = [found for where, found in digests.items() if found or where != "rows"]
    first, *others = named
    if len(first) != 1 or any(found != first for found in others):
        return None
    return next(iter(first))


def _releases_of(part: Part[PredictionsReceipt]) -> set[tuple[str, str]]:
    """Return the model's name and digest on the rows of a part.

    From the statistics of the footer; the rows are read where these don't name one.
    """
    names = column_spans(part, "model_name")
    digests = column_spans(part, "model_version")
    if not names or not digests or any(low != high for low, high in names + digests):
        columns = ["model_name", "model_version"]
        return set(
            query(part, columns, f"SELECT DISTINCT {', '.join(columns)} FROM rows")
        )
    return {
        (name, digest) for (name, _), (digest, _) in zip(names, digests, strict=True)
    }
