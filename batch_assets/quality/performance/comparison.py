"""Which of two releases was right more often, on the same rows of the same days."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from batch_assets.lake.tables import Lake
from batch_assets.models.comparisons import ComparedDay, Difference
from batch_assets.models.contract import Contract
from batch_assets.quality.performance.agreement import agreement_of, common_outputs
from batch_assets.quality.performance.history import BETTER
from batch_assets.quality.performance.realised import performance_of
from batch_assets.spec import OutcomesSpec

# Of fewer days nobody can say how much they differ from each other.
FEWEST_DAYS = 5
DRAWS = 2_000


@dataclass(frozen=True)
class Side:
    """One of two releases: the tables with its predictions, its contract, and its speed."""

    lake: Lake
    contract: Contract
    rows_per_second: float | None = None


def compare_day(
    day: str, champion: Side, challenger: Side, spec: OutcomesSpec | None
) -> ComparedDay:
    """Compare two releases on the rows of a day that the challenger was asked for.

    Args:
        day: the day.
        champion: with predictions of these shards or of more.
        challenger: the other.
        spec: what the outcomes are, if the pipeline has any.

    Raises:
        LakeError, SourceError: the day has no predictions, or outcomes that are none.
    """
    parts = challenger.lake.predictions.parts(day)
    shards = sorted({part.shard for part in parts})
    champion = replace(champion, lake=champion.lake.of_shards(shards))
    contract = common_outputs(champion.contract, challenger.contract)
    found = ComparedDay(
        day=day,
        rows=sum(part.rows for part in parts),
        agreement=agreement_of(champion.lake, challenger.lake, day, contract),
        champion_rows_per_second=champion.rows_per_second,
        challenger_rows_per_second=challenger.rows_per_second,
    )
    if spec is None or not challenger.lake.outcomes.paths(day):
        return found
    judged = [
        performance_of(side.lake, day, side.contract, spec)
        for side in (champion, challenger)
    ]
    metrics = [{n: one.value for n, one in each.whole.items()} for each in judged]
    return found.model_copy(
        update={
            "known_rows": judged[1].arrived.known,
            "champion": metrics[0],
            "challenger": metrics[1],
        }
    )


def differences_of(
    days: Sequence[ComparedDay], spec: OutcomesSpec | None
) -> tuple[Difference, ...]:
    """Return of each metric which release is better, if it is no chance of the days.

    The days are drawn again and again, each whole, because rows of one day are alike.
    """
    if spec is None:
        return ()
    found = []
    for metric, more_is_better in BETTER[spec.task].items():
        pairs = [
            (one.champion[metric], one.challenger[metric])
            for one in days
            if metric in one.champion and metric in one.challenger
        ]
        if pairs:
            found.append(_difference(metric, np.array(pairs), more_is_better))
    return tuple(found)


def _difference(metric: str, pairs: np.ndarray, more_is_better: bool) -> Difference:
    old, new = pairs.mean(axis=0)
    found = Difference(
        metric=metric,
        days=len(pairs),
        champion=float(old),
        challenger=float(new),
        difference=float(new - old),
    )
    if len(pairs) < FEWEST_DAYS:
        return found
    each = pairs[:, 1] - pairs[:, 0]
    drawn = np.random.default_rng(0).integers(0, len(each), (DRAWS, len(each)))
    low, high = np.quantile(each[drawn].mean(axis=1), [0.025, 0.975]).tolist()
    better = "neither"
    if low > 0 or high < 0:
        better = "challenger" if (low > 0) == more_is_better else "champion"
    return found.model_copy(update={"low": low, "high": high, "better": better})
