"""How good the predictions of each day were, and were estimated to be, in `outcome_metrics`.

It judges nothing.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import pyarrow as pa

from batch_assets.lake.metrics import OUTCOME
from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile, Segment
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.tables import Lake
from batch_assets.quality.performance.probabilities import estimated
from batch_assets.quality.performance.realised import Performance
from batch_assets.quality.performance.tallies import Measure
from batch_assets.spec import OutcomesSpec, Task

Kind = Literal["realised", "estimated"]
# The metrics of each task that tell how good it was, and whether more is better.
BETTER: dict[Task, dict[str, bool]] = {
    "binary": {
        "auc": True,
        "log_loss": False,
        "brier": False,
        "calibration_error": False,
    },
    "multiclass": {"accuracy": True, "macro_f1": True},
    "regression": {"mae": False, "rmse": False},
    "ranking": {"recall": True, "ndcg": True},
}
# The share of the predictions whose outcome is known.
KNOWN = "known_share"
# A segment of fewer rows is not estimated.
FEWEST_ROWS = 30


class Value(NamedTuple):
    """A metric of a day: its value, its standard error, of how many rows, by which release."""

    value: float
    error: float | None
    rows: int
    release: str


# An output, a segment of its rows, how many these are, and a metric of them.
Found = tuple[str, Segment | None, int, Measure]
# By day.
Series = dict[str, Value]


@dataclass
class History:
    """What is known of the days of a pipeline, by metric, of all rows and by segment."""

    realised: dict[str, Series] = field(default_factory=lambda: defaultdict(dict))
    estimated: dict[str, Series] = field(default_factory=lambda: defaultdict(dict))
    segments: dict[tuple[Segment, str], Series] = field(
        default_factory=lambda: defaultdict(dict)
    )


def write_estimates(
    lake: Lake,
    day: str,
    parts: Sequence[Part[PredictionsReceipt]],
    profile: Profile,
) -> None:
    """Write how good the probabilities of a day are if they are calibrated."""
    names = (None, *profile.segments)
    found = [
        (output, segment, int(counts.sum()), one)
        for output, lines in profile.score_counts().items()
        for segment, counts in zip(names, lines, strict=True)
        if counts.sum() >= (FEWEST_ROWS if segment else 1)
        for one in estimated(counts)
    ]
    if found:
        rows = _rows(day, parts[0].receipt, "estimated", found)
        lake.outcome_metrics.write(day, rows, kind="estimated")


def write_performance(
    lake: Lake,
    day: str,
    parts: Sequence[Part[PredictionsReceipt]],
    spec: OutcomesSpec,
    performance: Performance,
) -> None:
    """Write how good the predictions of a day were."""
    arrived = performance.arrived
    known = Measure(KNOWN, arrived.share)
    found: list[Found] = [(spec.output, None, arrived.predicted, known)]
    found += [
        (spec.output, line.segment, line.rows, one)
        for line in performance.lines
        for one in line.measures
    ]
    rows = _rows(day, parts[0].receipt, "realised", found)
    lake.outcome_metrics.write(day, rows, kind="realised")


def read_history(lake: Lake, spec: OutcomesSpec, first: str, last: str) -> History:
    """Read what came of the days from the first to the last, and what was estimated."""
    history = History()
    for row in lake.outcome_metrics.read(first, last).to_pylist():
        value = Value(row["value"], row["standard_error"], row["rows"], row["release"])
        metric, day = row["metric"], row["day"]
        if row["kind"] == "estimated":
            if row["segment_column"] is None and (
                name := _estimate_of(spec, row["column"], metric)
            ):
                history.estimated[name][day] = value
        elif row["column"] != spec.output:
            continue
        elif row["segment_column"] is None:
            history.realised[metric][day] = value
        else:
            segment = Segment(row["segment_column"], row["segment"])
            history.segments[segment, metric][day] = value
    return history


def _estimate_of(spec: OutcomesSpec, output: str, metric: str) -> str | None:
    """Which metric of a task an estimate is of: labels are right as often as they say."""
    if spec.task == "binary" and output == spec.output:
        return metric
    if spec.probability and (output, metric) == (spec.probability, "rate"):
        return "accuracy"
    return None


def _rows(
    day: str,
    receipt: PredictionsReceipt,
    kind: Kind,
    found: Sequence[Found],
) -> pa.Table:
    def records() -> Iterator[dict[str, object]]:
        for output, segment, rows, one in found:
            yield {
                "day": day,
                "job": receipt.job,
                "column": output,
                "segment_column": segment and segment.column,
                "segment": segment and segment.value,
                "model": receipt.model,
                "release": receipt.release,
                "kind": kind,
                "metric": one.metric,
                "value": one.value,
                "standard_error": one.error,
                "rows": rows,
            }

    return pa.Table.from_pylist(list(records()), schema=OUTCOME)
