"""Judge a day's predictions by their outcomes: each metric, of all rows and by segment."""

from collections.abc import Iterator
from dataclasses import dataclass

from batch_assets.lake.profiles import Segment
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import Label, Ranking
from batch_assets.models.profiling import segment_columns
from batch_assets.quality.performance.known import Arrived, KnownRows
from batch_assets.quality.performance.probabilities import BinaryTally, Group
from batch_assets.quality.performance.tallies import (
    Measure,
    MulticlassTally,
    RankingTally,
    RegressionTally,
    Tally,
)
from batch_assets.spec import OutcomesSpec


@dataclass(frozen=True)
class OfLine:
    """The metrics of all rows, or of a segment, whose outcome is known."""

    segment: Segment | None
    rows: int
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Performance:
    """How good the predictions of a day were.

    Attributes:
        lines: of all rows, then of each segment that has any.
        arrived: how many outcomes are known.
        curve: the calibration of probabilities; of anything else it is empty.
    """

    lines: tuple[OfLine, ...]
    arrived: Arrived
    curve: tuple[Group, ...] = ()

    @property
    def whole(self) -> dict[str, Measure]:
        """The metrics of all rows, by name; without outcomes there are none."""
        found = [line for line in self.lines if line.segment is None]
        return {one.metric: one for line in found for one in line.measures}


def performance_of(
    lake: Lake,
    day: str,
    contract: Contract,
    spec: OutcomesSpec,
    segments: tuple[str, ...] = (),
) -> Performance:
    """Judge a day's predictions by its outcomes, one shard after the other.

    Args:
        lake: with both.
        day: the day.
        contract: of the release that scored it.
        spec: what the outcomes are.
        segments: the columns whose values are judged by themselves.

    Raises:
        LakeError, SourceError: as `KnownRows.shards`.
    """
    columns = segment_columns(contract, segments)
    known = KnownRows(lake, day, contract, spec, columns)
    tally = _tally(contract, spec, known.lines)
    for rows, lines in known.shards():
        tally.add(rows, lines)
    names = [None, *(Segment(c.name, v) for c in columns for v in c.values)]
    curve = tally.curve(0) if isinstance(tally, BinaryTally) and tally.rows[0] else []
    return Performance(tuple(_lines(tally, names)), known.arrived, tuple(curve))


def _lines(tally: Tally, names: list[Segment | None]) -> Iterator[OfLine]:
    for line, segment in enumerate(names):
        if rows := int(tally.rows[line]):
            yield OfLine(segment, rows, tuple(tally.measures(line)))


def _tally(contract: Contract, spec: OutcomesSpec, lines: int) -> Tally:
    output = next(one for one in contract.outputs if one.name == spec.output)
    if isinstance(output, Label):
        return MulticlassTally(lines, len(output.classes))
    if isinstance(output, Ranking):
        return RankingTally(lines, output.k)
    return BinaryTally(lines) if spec.task == "binary" else RegressionTally(lines)
