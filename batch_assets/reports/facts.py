"""What a report shows of a night, as plain values. It reads nothing and draws nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from batch_assets.lake.stages import StageMetric
from batch_assets.quality.performance.history import Value
from batch_assets.quality.performance.probabilities import Group
from batch_assets.reports.flow import Flow
from batch_assets.reports.headline import Headline
from batch_assets.reports.served import Served
from batch_assets.reports.verdicts import GateLine
from batch_assets.scoring.sweep_results import Sweep


@dataclass(frozen=True)
class Histogram:
    """How many rows of a night, and of the release's reference, are in each bin.

    Attributes:
        output: the column.
        edges: between the bins of numbers, one less than bins; of kinds there are none.
        names: of the bins of kinds; of numbers there are none.
        counts: of the night.
        reference: of the release.
        rows: that were counted: all, or a sample.
        of: what a row is counted by, where it is not the number itself.
        mean: of the night's numbers, if it is known.
    """

    output: str
    edges: tuple[float, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    reference: tuple[int, ...]
    rows: int
    of: str = "value"
    mean: float | None = None


@dataclass(frozen=True)
class NightPoint:
    """How far an output was from the release's rows on a night, and what came of it."""

    day: str
    psi: float
    verdict: Literal["fine", "warn", "block"]


@dataclass(frozen=True)
class OutputDrift:
    """An output over the nights: its index, and tonight's with the limits of its gate."""

    output: str
    nights: tuple[NightPoint, ...]
    index: float | None = None
    warns_above: float | None = None
    blocks_above: float | None = None


@dataclass(frozen=True)
class FarColumn:
    """A column that is far from what is usual, as `drift_metrics` has it."""

    column: str
    segment: str | None
    measure: str
    value: float
    usual: float
    deviations: float
    verdict: str


@dataclass(frozen=True)
class Drift:
    """What is known of drift; `nights` are those before, and `enough` it takes to judge."""

    outputs: tuple[OutputDrift, ...] = ()
    furthest: tuple[FarColumn, ...] = ()
    nights: int = 0
    enough: int = 0


@dataclass(frozen=True)
class SampleRow:
    """A row that was left out: its key, and what it held, the column at fault first."""

    key: str
    at_fault: Mapping[str, str]
    others: Mapping[str, str]


@dataclass(frozen=True)
class Reason:
    """Why rows were left out, how many, and a few of them."""

    words: str
    rows: int
    samples: tuple[SampleRow, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """Rows that went to quarantine, or became dead letters, by reason, the most first.

    `looked_at` are the rows that the reasons were counted over, where it is not all.
    """

    rows: int = 0
    reasons: tuple[Reason, ...] = ()
    looked_at: int | None = None


@dataclass(frozen=True)
class Rightness:
    """How good the predictions were; `why_not` says why it is not known.

    `known` of `predicted` rows have an outcome; the curve is over `curve_rows` of them.
    """

    metrics: Mapping[str, Value] = field(default_factory=dict)
    estimates: Mapping[str, Value] = field(default_factory=dict)
    curve: tuple[Group, ...] = ()
    curve_rows: int = 0
    known: float | None = None
    why_not: str = ""


@dataclass(frozen=True)
class CommitLine:
    """What a table has of the day, and since when; for whoever must prove it."""

    table: str
    rows: int
    keys: str
    version: int
    at: datetime
    job: str


@dataclass(frozen=True)
class NightFacts:
    """All that a report shows of a night. `problems` say what could not be read."""

    pipeline: str
    day: str
    made_at: datetime
    timezone: str
    release: str | None
    headline: Headline
    flow: Flow
    gates: tuple[GateLine, ...]
    served: Served
    histograms: tuple[Histogram, ...] = ()
    drift: Drift = Drift()
    quarantined: LeftOut = LeftOut()
    dead: LeftOut = LeftOut()
    rightness: Rightness = Rightness()
    sweep: Sweep | None = None
    times: tuple[StageMetric, ...] = ()
    commits: tuple[CommitLine, ...] = ()
    forced_at: datetime | None = None
    problems: tuple[str, ...] = ()
