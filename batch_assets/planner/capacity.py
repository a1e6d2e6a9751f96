"""How long a night of so many rows takes on so many devices, and what it costs.

It knows neither tables nor pipelines: rates come as values, and so do chunks.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from batch_assets.planner.estimate import ROAD, Rate
from batch_assets.planner.simulation import Preemption, Scoring, simulate

HOUR = 3600.0
PREDICTIONS = ROAD[2]
# How often more devices are tried, each time by as much as the last try was late.
TRIES = 8


@dataclass(frozen=True)
class DeviceRate:
    """How many rows of whole chunks a device scores in a second, and how it is known.

    `model`, `read` and `write` are the rates of these alone, None where they are not
    known apart; `bound` is which of them is the slowest, as far as that is known.
    `of_nights` tells whether it is what past nights took, all of it.
    """

    rows_per_second: float
    source: str
    bound: str = "scoring"
    model: float | None = None
    read: float | None = None
    write: float | None = None
    of_nights: bool = False


@dataclass(frozen=True)
class HostRates:
    """Rows a second that one core reads and writes, and how many cores a device has."""

    read: float | None
    write: float | None
    cores: int

    @property
    def rows_per_second(self) -> float | None:
        """Return what all cores read and write; None where nothing was probed."""
        per_row = sum(1 / rate for rate in (self.read, self.write) if rate)
        return self.cores / per_row if per_row else None


def with_host(
    model: float, source: str, host: HostRates, *, shares_cores: bool
) -> DeviceRate:
    """Return the rate of whole chunks, from that of the model alone.

    Args:
        model: rows a second of the model alone.
        source: how it is known.
        host: what the device's host reads and writes.
        shares_cores: whether the model computes on these cores, too; if not, it is fed
            by them, and the slower of the two counts.
    """
    fed = host.rows_per_second
    read, write = (r and r * host.cores for r in (host.read, host.write))
    rate, bound = model, "model"
    if fed and shares_cores:
        rate = 1 / (1 / model + 1 / fed)
    elif fed:
        rate = min(model, fed)
    if fed and fed < model:
        bound = "read" if (read or math.inf) < (write or math.inf) else "write"
    return DeviceRate(rate, source, bound, model, read, write)


@dataclass(frozen=True)
class PlannedStage:
    """How long a stage takes: in seconds, and as a share of the night."""

    stage: str
    seconds: float
    share: float
    nights: int


@dataclass(frozen=True)
class Option:
    """A way to run the night, with what it costs.

    `low` and `high` are in seconds, as `seconds`; `scoring_seconds` are those of
    `predictions`. `device_hours` are paid at `price` dollars, None if no price was named.
    `redone_share` of the chunks is lost and done again, and `failed_share` of the nights
    stop because one chunk was lost as often as the engine tries.
    """

    name: str
    devices: int
    seconds: float
    low: float
    high: float
    scoring_seconds: float
    device_hours: float
    price: float | None
    cost: float | None
    cost_high: float | None
    in_time: bool | None
    redone_share: float = 0.0
    failed_share: float = 0.0


@dataclass(frozen=True)
class Night:
    """What a night is planned from.

    `host_seconds` pass outside `predictions`, and `fixed` in it however few the rows
    are. `chunks` are rows each, `spread` the standard deviation of the logarithm of what
    a row of a chunk takes. `errors` are those of plans of past nights, as shares.
    `paid_for_all` says whether devices are paid for the whole night. `attempts` is how
    often a chunk may be lost before the night stops; None if it never does.
    """

    chunks: Sequence[int]
    host_seconds: float
    fixed: float
    rate: float
    spread: float = 0.0
    errors: tuple[float, float] | None = None
    paid_for_all: bool = True
    attempts: int | None = None
    replace_seconds: float = 300.0


def option(
    name: str,
    night: Night,
    devices: int,
    *,
    preemptions: float = 0.0,
    price: float | None = None,
    deadline: float | None = None,
) -> Option:
    """Simulate a night on so many devices.

    Args:
        name: of the option.
        night: what it is planned from.
        devices: how many.
        preemptions: how often each is taken away, in an hour.
        price: dollars of a device for an hour.
        deadline: seconds that the night may take.
    """
    found = simulate(
        Scoring([rows / night.rate for rows in night.chunks], night.spread),
        devices,
        Preemption(preemptions / HOUR, night.replace_seconds, night.attempts),
    )
    fixed = night.host_seconds + night.fixed
    least, most = night.errors or (0.0, 0.0)
    seconds = fixed + found.median
    low, high = (fixed + found.low) * (1 + least), (fixed + found.high) * (1 + most)

    def hours(whole: float) -> float:
        paid = whole if night.paid_for_all else whole - night.host_seconds
        return devices * max(paid, 0.0) / HOUR

    return Option(
        name,
        devices,
        seconds,
        low,
        high,
        found.median + night.fixed,
        hours(seconds),
        price,
        None if price is None else hours(seconds) * price,
        None if price is None else hours(high) * price,
        None if deadline is None else high <= deadline,
        found.redone_share,
        found.failed_share,
    )


def fewest(night: Night, deadline: float, preemptions: float = 0.0) -> int | None:
    """Return the fewest devices whose upper bound meets a deadline; None if none do.

    More devices than there are chunks bring nothing.
    """
    most = len(night.chunks)
    work = sum(night.chunks) / night.rate
    spare = deadline / (1 + (night.errors[1] if night.errors else 0.0))
    spare -= night.host_seconds + night.fixed
    if spare <= 0:
        return None
    devices = min(max(math.ceil(work / spare), 1), most)
    for _ in range(TRIES):
        tried = option(
            "tried", night, devices, preemptions=preemptions, deadline=deadline
        )
        if tried.in_time:
            return devices
        if devices == most:
            return None
        late = tried.high / deadline
        devices = min(max(devices + 1, math.ceil(devices * late)), most)
    tried = option("tried", night, most, preemptions=preemptions, deadline=deadline)
    return most if tried.in_time else None


def planned_stages(
    rates: dict[str, Rate], rows: int, scoring_seconds: float
) -> list[PlannedStage]:
    """Return how long each stage of the road takes, `predictions` as it was simulated.

    What passes before the next stage begins is part of a stage.
    """
    seconds: dict[str, float] = {}
    for stage in ROAD:
        rate = rates.get(stage)
        if stage == PREDICTIONS:
            seconds[stage] = scoring_seconds
        elif rate:
            seconds[stage] = rate.seconds(rows)
        if rate and stage != ROAD[-1]:
            seconds[stage] += rate.after
    whole = sum(seconds.values()) or 1.0
    return [
        PlannedStage(
            stage, took, took / whole, rates[stage].nights if stage in rates else 0
        )
        for stage, took in seconds.items()
    ]


def host_seconds(rates: dict[str, Rate], rows: int) -> float:
    """Return the seconds of a night outside `predictions`, checks between stages too."""
    return sum(
        (0.0 if stage == PREDICTIONS else rate.seconds(rows))
        + (0.0 if stage == ROAD[-1] else rate.after)
        for stage, rate in rates.items()
        if stage in ROAD
    )


def spread_of(seconds_per_row: Sequence[float]) -> float | None:
    """Return by how much chunks differ, as `Night.spread`; None of fewer than three."""
    if len(seconds_per_row) < 3:
        return None
    return statistics.stdev(math.log(one) for one in seconds_per_row)
