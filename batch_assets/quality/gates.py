"""The gates of a night: each judges the evidence of one day and says what it saw.

The checks in Dagster show these verdicts; the scorer and the publisher ask for them
again, from the files, because nothing that happened upstream is taken on trust. It
knows neither Dagster nor how a day is served.
"""

import math
import statistics
from functools import partial
from typing import Any

import duckdb

from batch_assets.errors import LakeError, ReleaseError
from batch_assets.lake.commits import BaselineDecision, ScoringCommit
from batch_assets.lake.delta_table import DayCommit
from batch_assets.lake.parts import Part, open_part, read_columns
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.reconciliation import Books
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract, Output
from batch_assets.models.registry import Registry
from batch_assets.models.release import Manifest
from batch_assets.quality.drift import prediction_drift
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import Gates


def validation_closes(books: Books) -> Verdict:
    """Raw rows are validated or quarantined, each once."""
    page, bad = books.total, books.open_after_validation()
    return Verdict(
        "raw_is_validated_plus_quarantined",
        not bad and bool(books.pages),
        _closing("raw", "validated plus quarantined", bad, books),
        {
            "raw_rows": float(page.raw.rows),
            "validated_rows": float(page.validated.rows),
            "quarantined_rows": float(page.quarantined.rows),
            "open_shards": float(len(bad)),
        },
        moved_by=_no_field("materialise validated_features of the day again"),
    )


def scoring_closes(books: Books) -> Verdict:
    """Validated rows are scored or dead, each once."""
    page, bad = books.total, books.open_after_scoring()
    return Verdict(
        "validated_is_scored_plus_dead",
        not bad and bool(books.pages),
        _closing("validated", "scored plus dead", bad, books),
        {
            "validated_rows": float(page.validated.rows),
            "scored_rows": float(page.scored.rows),
            "carried_rows": float(page.carried.rows),
            "dead_letters": float(page.dead.rows),
            "open_shards": float(len(bad)),
        },
        moved_by=_no_field("materialise predictions of the day again"),
    )


def quarantine_share(books: Books, gates: Gates) -> Verdict:
    """Few enough rows are in quarantine."""
    page = books.total
    return _share(
        "quarantine_share_is_within_limit",
        "raw rows are quarantined",
        page.quarantined.rows,
        page.raw.rows,
        "max_quarantine_share",
        gates,
    )


def dead_letter_share(books: Books, gates: Gates) -> Verdict:
    """Few enough rows are dead letters."""
    page = books.total
    return _share(
        "dead_letter_share_is_within_limit",
        "validated rows are dead letters",
        page.dead.rows,
        page.validated.rows,
        "max_dead_letter_share",
        gates,
    )


def most_dead_letters(rows: int, gates: Gates) -> int:
    """How many of the validated rows may be dead letters before that gate is shut."""
    most = math.floor(rows * gates.max_dead_letter_share)
    # The product may be rounded down below a count whose share is just the limit.
    within = rows and (most + 1) / rows <= gates.max_dead_letter_share
    return most + 1 if within else most


def coverage(books: Books, gates: Gates) -> Verdict:
    """Enough of the raw rows are scored."""
    page = books.total
    share = page.predicted.rows / page.raw.rows if page.raw.rows else 1.0
    return Verdict(
        "coverage_is_within_limit",
        share >= gates.min_coverage,
        f"{page.predicted.rows:,} of {page.raw.rows:,} raw rows are scored: {share:.4f} of "
        f"them, at least {gates.min_coverage} must be",
        {"coverage": share, "limit": gates.min_coverage},
        moved_by=_field("min_coverage"),
    )


def volume(day: str, rows_by_day: dict[str, int], gates: Gates) -> Verdict:
    """The day has about as many raw rows as the days before it; only warns."""
    rows = rows_by_day.get(day, 0)
    before = [rows_by_day[d] for d in sorted(rows_by_day) if d < day]
    trailing = before[-gates.volume_days :]
    numbers = {"raw_rows": float(rows), "trailing_days": float(len(trailing))}
    gate, moved_by = "volume_is_like_the_days_before", _field("max_volume_change")
    if not trailing:
        why = f"{rows:,} raw rows; no day before it to compare with"
        return Verdict(
            gate, passed=True, why=why, numbers=numbers, blocks=False, moved_by=moved_by
        )
    median = statistics.median(trailing)
    change = abs(rows - median) / median if median else float(rows > 0)
    return Verdict(
        gate,
        change <= gates.max_volume_change,
        f"{rows:,} raw rows, {change:.0%} off the median {median:,.0f} of the "
        f"{len(trailing)} days before; at most {gates.max_volume_change:.0%} is usual",
        numbers
        | {
            "trailing_median": float(median),
            "change": change,
            "limit": gates.max_volume_change,
        },
        blocks=False,
        moved_by=f"{moved_by}, and gates.volume_days how many days the median is over",
    )


def one_release(
    lake: Lake, registry: Registry, day: str, graph_digest: str | None = None
) -> Verdict:
    """One approved release, with one digest, in registry, commit, files and rows.

    Args:
        lake: the pipeline's tables.
        registry: the models.
        day: the day.
        graph_digest: the data version that Dagster recorded for the model, if any.
    """
    verdict = partial(
        Verdict,
        "one_approved_release_on_every_row",
        moved_by=_no_field("score the day again with a release approved for batch"),
    )
    parts = lake.predictions.parts(day)
    commit = lake.predictions.last_commit(day)
    rows = set().union(*(_releases_of(part) for part in parts))
    names = {name for name, _ in rows}
    stamped = {part.receipt.release for part in parts}
    digests = {
        "rows": {digest for _, digest in rows},
        "files": stamped,
        "commit": {commit.facts.release} if commit else {None},
    }
    if graph_digest is not None:
        digests["graph"] = {graph_digest}
    facts = {
        where: ", ".join(map(str, sorted(map(str, found))))
        for where, found in digests.items()
    }
    numbers = {"releases": float(len(set().union(*digests.values()) - {None}))}
    if not stamped:
        return verdict(passed=False, why=f"{day} is not committed", facts=facts)
    # A day without rows is stamped by its files alone.
    expected = stamped if len(stamped) == 1 else set()
    wrong = {
        where: found
        for where, found in digests.items()
        if found != expected and not (where == "rows" and not found)
    }
    if wrong or len(names) > 1:
        why = f"expected one digest everywhere, got {facts}"
        return verdict(passed=False, why=why, numbers=numbers, facts=facts)
    digest = next(iter(expected))
    name = commit.facts.model if commit else next(iter(names))
    try:
        release = registry.require(name, digest, "batch")
    except ReleaseError as error:
        return verdict(passed=False, why=str(error), numbers=numbers, facts=facts)
    why = f"release {release.name} {release.short}, approved for batch, on every row"
    return verdict(passed=True, why=why, numbers=numbers, facts=facts)


def scores_in_range(
    parts: list[Part[PredictionsReceipt]], contract: Contract
) -> Verdict:
    """Every output is finite and in its declared range.

    A receipt says so of its part, and the statistics in the footer agree. The rows are
    read only of a part of which they don't, to count those at fault.
    """
    numbers: dict[str, float] = {}
    bad_rows = 0
    for output in contract.outputs:
        column = f'"{output.name}"'
        exact = "HUGEINT" if output.dtype.startswith("int") else "DOUBLE"
        low, high = (f"'{bound!r}'::{exact}" for bound in output.bounds)
        # NaN is above all other numbers there.
        outside = f"{column} IS NULL OR {column} NOT BETWEEN {low} AND {high}"
        found = []
        for part in parts:
            span = _span_of(part, output)
            found.append(
                (*span, 0)
                if span
                else _query(
                    part,
                    [output.name],
                    f"SELECT min({column}), max({column}), "
                    f"count(*) FILTER (WHERE {outside}) FROM rows",
                )[0]
            )
        bad = sum(count for *_, count in found)
        bad_rows += bad
        if lows := [low for low, _, _ in found if low is not None]:
            numbers[f"{output.name}_min"] = float(min(lows))
            numbers[f"{output.name}_max"] = float(
                max(high for _, high, _ in found if high is not None)
            )
        numbers[f"{output.name}_outside"] = float(bad)
    return Verdict(
        "scores_are_finite_and_in_range",
        bad_rows == 0,
        f"{bad_rows:,} values are not finite or out of the declared range, expected 0",
        numbers,
        moved_by=_no_field(
            "the min and max of an output are in the contract: write a release with others"
        ),
    )


def carried_rows(books: Books, commit: DayCommit[ScoringCommit] | None) -> Verdict:
    """Rows that were taken over from the night before are what the model says; warns."""
    decision = commit.facts.decision if commit else BaselineDecision()
    carried = books.total.carried.rows
    again = commit.facts.rescored if commit else 0
    why = f"{carried:,} rows were taken over, {again:,} of them scored again and equal"
    if not carried:
        why = f"every row was scored: {decision.why or 'the night stands alone'}"
    return Verdict(
        "carried_rows_equal_their_rescoring",
        not decision.refused,
        why,
        {"carried_rows": float(carried), "rescored_rows": float(again)},
        {"built_on": decision.built_on or "none"},
        blocks=False,
        moved_by="No limit of the YAML moves it; `incremental: false` scores every row",
    )


def after_validation(books: Books, gates: Gates) -> list[Verdict]:
    """What must hold of a day before it is scored."""
    return [validation_closes(books), quarantine_share(books, gates)]


def after_scoring(
    lake: Lake, registry: Registry, manifest: Manifest, day: str, gates: Gates
) -> list[Verdict]:
    """What must hold of a day before it is served."""
    books, parts = lake.books(day), lake.predictions.parts(day)
    return [
        validation_closes(books),
        quarantine_share(books, gates),
        scoring_closes(books),
        dead_letter_share(books, gates),
        coverage(books, gates),
        one_release(lake, registry, day),
        scores_in_range(parts, manifest.contract),
        prediction_drift(parts, manifest, gates),
    ]


def _closing(whole: str, sides: str, bad: list[int], books: Books) -> str:
    if not books.pages:
        return f"{books.day} is not committed"
    if not bad:
        return f"{whole} = {sides} in each of {len(books.pages)} shards"
    outdated = books.outdated_validated | books.outdated_scored
    if outdated.intersection(bad):
        return (
            f"{len(outdated)} shards were made of rows that have been replaced since: "
            f"{sorted(outdated)[:10]}; materialise what follows from {whole} rows again"
        )
    return f"{whole} is not {sides} in {len(bad)} shards: {bad[:10]}"


def _share(
    gate: str, what: str, part: int, whole: int, field: str, gates: Gates
) -> Verdict:
    share, limit = part / whole if whole else 0.0, getattr(gates, field)
    return Verdict(
        gate,
        share <= limit,
        f"{part:,} of {whole:,} {what}: {share:.4f} of them, at most {limit} may be",
        {"share": share, "limit": limit},
        moved_by=_field(field),
    )


def _field(name: str) -> str:
    return f"The limit is gates.{name} in the pipeline's YAML"


def _no_field(instead: str) -> str:
    return f"No field of the YAML moves it: {instead}"


def _span_of(
    part: Part[PredictionsReceipt], output: Output
) -> tuple[float, float] | None:
    """Least and most of an output in a part, if receipt and footer say it is in range.

    Parquet's statistics ignore NaN, the receipt's numbers don't; a null is in neither.
    """
    summary = part.receipt.outputs.get(output.name)
    groups = _statistics(part, output.name)
    if summary is None or summary.rows != part.rows or groups is None:
        return None
    if summary.min is None or summary.max is None:
        return None
    low, high = output.bounds
    for least, most in [(summary.min, summary.max), *groups]:
        if least is None or not low <= least <= most <= high:
            return None
    return summary.min, summary.max


def _releases_of(part: Part[PredictionsReceipt]) -> set[tuple[str, str]]:
    """The model's name and digest on the rows of a part.

    From the statistics of the footer; the rows are read where these don't name one.
    """
    names = _statistics(part, "model_name")
    digests = _statistics(part, "model_version")
    if not names or not digests or any(low != high for low, high in names + digests):
        names_of = ["model_name", "model_version"]
        sql = "SELECT DISTINCT model_name, model_version FROM rows"
        return set(_query(part, names_of, sql))
    return {
        (name, digest) for (name, _), (digest, _) in zip(names, digests, strict=True)
    }


def _statistics(
    part: Part[PredictionsReceipt], column: str
) -> list[tuple[Any, Any]] | None:
    """Least and most of a column in each row group; None where a footer doesn't tell.

    A column with a null doesn't tell either: it is in no statistics but the count.
    """
    _, file = open_part(part.path)
    with file:
        at = file.schema_arrow.get_field_index(column)
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    found = []
    for group in groups:
        told = group.column(at).statistics
        if told is None or not told.has_min_max or told.null_count != 0:
            return None
        found.append((told.min, told.max))
    return found


def _query(part: Part[PredictionsReceipt], columns: list[str], sql: str) -> list[tuple]:
    with duckdb.connect() as connection:
        try:
            connection.register("rows", read_columns(part.path, columns))
            return connection.execute(sql).fetchall()
        except duckdb.Error as error:
            msg = f"the committed predictions can't be read: {error}"
            raise LakeError(msg) from error
