"""Whether what the model said is finite, and in the range that its release declares."""

from collections.abc import Mapping

from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.models.input_specs import Words
from batch_assets.models.output_specs import AnyOutput, Output, VectorOutput
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges.footers import column_spans, query
from batch_assets.quality.verdict import Verdict

# Least and most of an output, None where there is no value, and how many are at fault.
Span = tuple[float | None, float | None, int]


def scores_in_range(evidence: DayEvidence) -> Verdict:
    """Judge every output against its declared range.

    A receipt says so of its part, and the statistics in the footer agree. The rows are
    read only of a part of which they don't, to count those at fault.
    """
    parts = evidence.parts()
    numbers: dict[str, float] = {}
    outside_rows = 0
    contract = evidence.manifest().contract
    vocabularies = contract.vocabularies
    for output in contract.outputs:
        if not isinstance(output, Output) or isinstance(output, VectorOutput):
            wrong = sum(_at_fault(part, output, vocabularies) for part in parts)
            outside_rows += wrong
            numbers[f"{output.name}_outside"] = float(wrong)
            continue
        spans = [
            _trusted_span(part, output) or _counted(part, output) for part in parts
        ]
        outside = sum(count for *_, count in spans)
        outside_rows += outside
        if lows := [low for low, _, _ in spans if low is not None]:
            numbers[f"{output.name}_min"] = float(min(lows))
            numbers[f"{output.name}_max"] = float(
                max(high for _, high, _ in spans if high is not None)
            )
        numbers[f"{output.name}_outside"] = float(outside)
    return Verdict(
        outside_rows == 0,
        f"{outside_rows:,} values are not finite or out of the declared range, expected 0",
        numbers,
    )


def _trusted_span(part: Part[PredictionsReceipt], output: Output) -> Span | None:
    """Return an output's span, if receipt and footer agree that it is in range.

    Parquet's statistics ignore NaN, the receipt's numbers don't; a null is in neither.
    """
    summary = part.receipt.outputs.get(output.name)
    groups = column_spans(part, output.name)
    if summary is None or summary.rows != part.rows or groups is None:
        return None
    if summary.min is None or summary.max is None:
        return None
    low, high = output.bounds
    for least, most in [(summary.min, summary.max), *groups]:
        if least is None or not low <= least <= most <= high:
            return None
    return summary.min, summary.max, 0


def _counted(part: Part[PredictionsReceipt], output: Output) -> Span:
    """Return an output's span from the rows, with how many are out of range."""
    column = f'"{output.name}"'
    exact = "HUGEINT" if output.dtype.startswith("int") else "DOUBLE"
    low, high = (f"'{bound!r}'::{exact}" for bound in output.bounds)
    # NaN is above all other numbers in DuckDB.
    outside = f"{column} IS NULL OR {column} NOT BETWEEN {low} AND {high}"
    sql = (
        f"SELECT min({column}), max({column}), count(*) FILTER (WHERE {outside}) "
        "FROM rows"
    )
    ((least, most, count),) = query(part, [output.name], sql)
    return least, most, count


def _at_fault(
    part: Part[PredictionsReceipt],
    output: AnyOutput,
    vocabularies: Mapping[str, Words],
) -> int:
    """Return how many rows are not as declared, from the rows."""
    names = [column.name for column in output.columns]
    found = output.read(read_columns(part.path, names), vocabularies)
    wrong = output.at_fault(found, vocabularies)
    return 0 if wrong is None else int(wrong.sum())
