"""What is measured of a pipeline, made into a plan of a night that has not begun.

What follows from it, the planner says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from batch_assets.deadlines import LOOK_BACK, stage_runs
from batch_assets.errors import PipelineError
from batch_assets.lake.parts import Part
from batch_assets.lake.probe import Probe, probe
from batch_assets.lake.receipts import ValidatedReceipt
from batch_assets.lake.tables import Lake
from batch_assets.launch.device_rates import device_rate
from batch_assets.planner.advice import Advice, advise, bottleneck_of
from batch_assets.planner.capacity import (
    PREDICTIONS,
    DeviceRate,
    Night,
    Option,
    PlannedStage,
    fewest,
    host_seconds,
    option,
    planned_stages,
    spread_of,
)
from batch_assets.planner.estimate import (
    ERROR_NIGHTS,
    ROAD,
    Rate,
    StageRun,
    error_bounds,
    rates_of,
    usual_rows,
)
from batch_assets.planner.model_alone import LEFT_OUT, ModelRate
from batch_assets.planner.past_plans import off_by_share
from batch_assets.planner.size import both_ends, is_of_another_size
from batch_assets.scoring.plan import chunks_of
from batch_assets.spec import PipelineSpec
from batch_assets.storage import StoragePath

AFTER_ALL_NIGHTS = "9999-12-31"
ON_DEMAND, SPOT = "on demand", "spot"


@dataclass(frozen=True)
class Asked:
    """What somebody wants to know of a night; None is not said.

    `deadline` and `replace_seconds` are in seconds, `price` in dollars of a device for an
    hour, `spot` the share of it that is saved, and `preemptions` in an hour of a device.
    """

    rows: int | None = None
    deadline: float | None = None
    devices: int | None = None
    device: str | None = None
    model: ModelRate | None = None
    price: float | None = None
    spot: float | None = None
    preemptions: float = 0.0
    replace_seconds: float = 300.0


@dataclass(frozen=True)
class PlanReport:
    """How long a night will take, on what, for how much, and what to do about it.

    `option` is what was asked for, `others` are beside it. `rate` is of one device; the
    first stage of `stages` that takes longest is the `bottleneck`. `off_by_share` is how
    far off plans of `checked_nights` past nights were in the median, None if nobody has
    looked.
    """

    pipeline: str | None
    rows: int
    deadline_seconds: float | None
    option: Option
    others: list[Option]
    stages: list[PlannedStage]
    bottleneck: str | None
    rate: DeviceRate
    chunks: int
    advice: list[Advice]
    warnings: list[str]
    left_out: list[str]
    off_by_share: float | None
    checked_nights: int


@dataclass(frozen=True)
class _Measured:
    """What is known of a pipeline: its nights, its newest day, and what a probe found."""

    runs: Sequence[StageRun]
    rates: dict[str, Rate]
    parts: Sequence[Part[ValidatedReceipt]]
    probe: Probe | None
    errors: Sequence[float]


def plan_night(spec: PipelineSpec, root: StoragePath, asked: Asked) -> PlanReport:
    """Plan a night of a pipeline.

    Raises:
        PipelineError: nothing was measured that a night could be planned from.
        ReleaseError: a device was named, and no release is in use.
    """
    measured = _measured(Lake(root, spec.name))
    rows = _rows(spec, measured, asked)
    chunks = planned_chunks(spec, measured.parts, rows)
    rate = device_rate(
        spec,
        root,
        measured.rates,
        measured.probe,
        device=asked.device,
        model=asked.model,
    )
    night = _night(spec, measured, rate, chunks, rows, asked)
    options = [
        _widened(one, night, measured, rate, rows) for one in _options(night, asked)
    ]
    stages = planned_stages(measured.rates, rows, options[0].scoring_seconds)
    recent = measured.errors[-ERROR_NIGHTS:]
    return PlanReport(
        spec.name,
        rows,
        asked.deadline,
        options[0],
        options[1:],
        stages,
        bottleneck_of(stages).stage,
        rate,
        len(chunks),
        advise(spec.model.name, stages, rate, options[0], len(chunks), asked.deadline),
        _warnings(spec, measured, rows, asked),
        _left_out(measured, rate, asked),
        off_by_share(recent),
        len(recent),
    )


def planned_chunks(
    spec: PipelineSpec, parts: Sequence[Part[ValidatedReceipt]], rows: int
) -> list[int]:
    """Return the rows of each chunk of a night, as a night would cut it.

    Args:
        spec: of the pipeline.
        parts: of a day whose parts are like the night's, but for their rows; of none, the
            shards are alike.
        rows: of the night.
    """
    there = sum(part.rows for part in parts)
    if there == rows:
        cut = (chunks_of(part.groups, spec.chunk_rows) for part in parts)
    else:
        shares = [part.rows / there for part in parts] if there else []
        shares = shares or [1 / spec.shards] * spec.shards
        cut = (
            chunks_of(_row_groups(round(share * rows), spec), spec.chunk_rows)
            for share in shares
        )
    return [count for part in cut for _, count in part if count]


def _row_groups(rows: int, spec: PipelineSpec) -> list[int]:
    whole, rest = divmod(rows, spec.row_group_rows)
    return [spec.row_group_rows] * whole + ([rest] if rest else [])


def _measured(lake: Lake) -> _Measured:
    days = lake.validated_features.rows_by_day()
    last = max(days, default=None)
    runs = stage_runs(lake, "", AFTER_ALL_NIGHTS)
    if runs:
        newest = max(run.day for run in runs)
        first = str(date.fromisoformat(newest) - LOOK_BACK)
        runs = [run for run in runs if run.day >= first]
    errors = [
        row["error_share"]
        for row in lake.plan_metrics.read("", AFTER_ALL_NIGHTS).to_pylist()
    ]
    return _Measured(
        runs,
        rates_of(runs, AFTER_ALL_NIGHTS),
        lake.validated_features.parts(last) if last else [],
        probe(lake, last) if last else None,
        errors,
    )


def _rows(spec: PipelineSpec, measured: _Measured, asked: Asked) -> int:
    usual = usual_rows(measured.runs, AFTER_ALL_NIGHTS)
    rows = asked.rows or (round(usual) if usual else None)
    if rows is None:
        msg = (
            f"no night of {spec.name} was measured yet, so how many rows it has is not "
            "known: say --rows, or run a night"
        )
        raise PipelineError(msg)
    return rows


def _night(
    spec: PipelineSpec,
    measured: _Measured,
    rate: DeviceRate,
    chunks: Sequence[int],
    rows: int,
    asked: Asked,
) -> Night:
    scoring = measured.rates.get(PREDICTIONS)
    spread = spread_of(measured.probe.seconds_per_row) if measured.probe else None
    return Night(
        chunks,
        host_seconds(measured.rates, rows),
        scoring.fixed if scoring else 0.0,
        rate.rows_per_second,
        spread or 0.0,
        error_bounds(measured.errors),
        paid_for_all=not spec.engine.remote,
        attempts=getattr(spec.engine, "attempts", None),
        replace_seconds=asked.replace_seconds,
    )


def _options(night: Night, asked: Asked) -> list[Option]:
    """Return the way that was asked for, and beside it what it would be on demand."""

    def way(name: str, preemptions: float, price: float | None) -> Option:
        devices = asked.devices or 1
        if asked.deadline and not asked.devices:
            devices = fewest(night, asked.deadline, preemptions) or _of_use(night)
        return option(
            name,
            night,
            devices,
            preemptions=preemptions,
            price=price,
            deadline=asked.deadline,
        )

    if asked.spot is None and not asked.preemptions:
        return [way(ON_DEMAND, 0.0, asked.price)]
    price = asked.price and asked.price * (1 - (asked.spot or 0.0))
    return [way(SPOT, asked.preemptions, price), way(ON_DEMAND, 0.0, asked.price)]


def _of_use(night: Night) -> int:
    """How many devices are of use: scoring is a tenth of the rest of the night then."""
    work, rest = sum(night.chunks) / night.rate, night.host_seconds + night.fixed
    wanted = math.ceil(work / (0.1 * rest)) if rest else len(night.chunks)
    return max(min(wanted, len(night.chunks)), 1)


def _widened(
    way: Option, night: Night, measured: _Measured, rate: DeviceRate, rows: int
) -> Option:
    """Widen the interval of a night that is far from the size of those measured."""
    if not is_of_another_size(measured.runs, rows):
        return way
    runs, scoring = measured.runs, way.scoring_seconds
    least = both_ends(runs, rows, [PREDICTIONS])[0] if rate.of_nights else scoring
    fixed, by_row = both_ends(runs, rows, [s for s in ROAD if s != PREDICTIONS])
    low = min(way.low, fixed + min(least, scoring))
    high = max(way.high, by_row + scoring)
    hours = way.device_hours * (high / way.seconds if night.paid_for_all else 1.0)
    return replace(
        way,
        low=low,
        high=high,
        cost_high=None if way.price is None else hours * way.price,
        in_time=None if way.in_time is None else way.in_time and high <= way.high,
    )


def _warnings(
    spec: PipelineSpec, measured: _Measured, rows: int, asked: Asked
) -> list[str]:
    told = []
    missing = [stage for stage in ROAD if stage not in measured.rates]
    if missing and missing != [PREDICTIONS]:
        told.append(
            f"no night of {spec.name} was measured yet: {', '.join(missing)} are not in "
            "this plan. Run a night"
        )
    if is_of_another_size(measured.runs, rows):
        most = max(run.rows for run in measured.runs)
        told.append(
            f"the nights that were measured had {most:,} rows at most, and this one has "
            f"{rows:,}: what is fixed in a stage and what goes by the row can't be told "
            "apart so far away. The interval holds both ends; run a day of that size"
        )
    if measured.probe and not measured.probe.is_telling:
        told.append(
            f"the files of {measured.probe.day} are too small to tell how fast rows are "
            "read and written"
        )
    if asked.spot is not None and not asked.preemptions:
        told.append(
            "without --preemptions nothing is taken away, which is not so of spot"
        )
    if asked.preemptions and not spec.engine.remote:
        told.append(
            "the engine is `local`: a night whose machine is taken away stops, and goes on "
            "when somebody runs its day again"
        )
    return told


def _left_out(measured: _Measured, rate: DeviceRate, asked: Asked) -> list[str]:
    """Return what this plan does not have, of what the model alone leaves out."""
    probed = measured.probe is not None and measured.probe.is_telling
    chunks = probed or rate.of_nights or rate.bound == "scoring"
    has = {
        "read": chunks,
        "validate": ROAD[1] in measured.rates,
        "write": chunks,
        "publish": ROAD[3] in measured.rates,
        "sink": False,  # A store is filled after the night is served.
        "stragglers": probed and len(measured.probe.seconds_per_row) > 2
        if measured.probe
        else False,
        "preemption": bool(asked.preemptions),
    }
    return [what for what in LEFT_OUT if not has[what]]
