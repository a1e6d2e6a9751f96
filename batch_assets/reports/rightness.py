"""Whether the predictions of a night were right, as far as anybody knows by now."""

from datetime import date

from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.quality.performance.history import BETTER, KNOWN, read_history
from batch_assets.quality.performance.probabilities import Group
from batch_assets.quality.performance.realised import performance_of
from batch_assets.reports.facts import Rightness
from batch_assets.spec import OutcomesSpec, PipelineSpec

# The reliability curve of a day with more predictions is drawn from some of its shards.
CURVE_ROWS = 400_000


def rightness_of(
    lake: Lake, day: str, spec: PipelineSpec, contract: Contract | None
) -> Rightness:
    """Return how good a day's predictions were.

    Args:
        lake: the pipeline's tables.
        day: the day.
        spec: the pipeline.
        contract: of the release that scored it, if it was scored.
    """
    outcomes = spec.outcomes
    if outcomes is None:
        return Rightness(
            why_not="The pipeline's YAML says nothing of outcomes, so nobody knows."
        )
    history = read_history(lake, outcomes, day, day)
    estimates = {
        metric: series[day]
        for metric, series in history.estimated.items()
        if day in series and metric in BETTER[outcomes.task]
    }
    metrics = {
        metric: series[day]
        for metric, series in history.realised.items()
        if day in series and metric in BETTER[outcomes.task]
    }
    known = history.realised.get(KNOWN, {}).get(day)
    if contract is None:
        return Rightness(why_not="Nothing is scored yet.")
    if known is None:
        return Rightness(estimates=estimates, why_not=_why_not(lake, day, outcomes))
    curve: tuple[Group, ...] = ()
    rows = 0
    if outcomes.task == "binary":
        performance = performance_of(_some(lake, day), day, contract, outcomes)
        curve, rows = performance.curve, performance.arrived.known
    return Rightness(metrics, estimates, curve, rows, known.value)


def _why_not(lake: Lake, day: str, spec: OutcomesSpec) -> str:
    command = f"batch-assets outcomes run {lake.pipeline} --day {day}"
    due = date.fromordinal(date.fromisoformat(day).toordinal() + spec.after_days + 1)
    return (
        f"No outcomes were taken of {day} yet; they are known from {due} on. Then: "
        f"`{command}`, and the report again."
    )


def _some(lake: Lake, day: str) -> Lake:
    """The lake, or of a large day some shards of it: these are a sample of the keys."""
    parts = lake.predictions.parts(day)
    shards: set[int] = set()
    rows = 0
    for part in parts:
        if rows and part.shard not in shards and rows + part.rows > CURVE_ROWS:
            break
        shards.add(part.shard)
        rows += part.rows
    return lake if rows == sum(part.rows for part in parts) else lake.of_shards(shards)
