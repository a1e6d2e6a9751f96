"""The textbook case: all devices in the model, all the time, and nothing else."""

import math
from dataclasses import dataclass

# What the model alone leaves out of a night, in the order in which it comes.
LEFT_OUT = (
    "read",
    "validate",
    "write",
    "publish",
    "sink",
    "stragglers",
    "preemption",
)


@dataclass(frozen=True)
class ModelRate:
    """How fast a device is in the model alone, as somebody says.

    Either rows of a batch with its milliseconds, or rows a second.
    """

    batch_rows: int | None = None
    batch_ms: float | None = None
    rows_per_second: float | None = None

    @property
    def rate(self) -> float:
        """Rows a second of one device."""
        if self.batch_rows and self.batch_ms:
            return self.batch_rows / self.batch_ms * 1000
        assert self.rows_per_second is not None
        return self.rows_per_second

    def batches(self, rows: int) -> int | None:
        """Return how many batches rows are; None where no batch was named."""
        return math.ceil(rows / self.batch_rows) if self.batch_rows else None

    def seconds(self, rows: int, devices: int) -> float:
        """Return how long so many devices take: whole batches, spread evenly."""
        batches = self.batches(rows)
        if batches is not None and self.batch_ms:
            return batches * self.batch_ms / 1000 / devices
        return rows / self.rate / devices

    def devices(self, rows: int, deadline: float) -> int:
        """Return the fewest devices that do it in so many seconds."""
        return max(math.ceil(self.seconds(rows, 1) / deadline), 1)


@dataclass(frozen=True)
class ModelAlone:
    """How long the model alone takes: `batches` None where no batch was named.

    `cost` is in dollars, None without a price; `in_time` None without a deadline.
    """

    rows: int
    devices: int
    rows_per_second: float
    batch_rows: int | None
    batch_ms: float | None
    batches: int | None
    seconds: float
    deadline_seconds: float | None
    in_time: bool | None
    price: float | None
    cost: float | None
    left_out: list[str]


def plan_model_alone(
    model: ModelRate,
    rows: int,
    devices: int | None,
    deadline: float | None,
    price: float | None,
) -> ModelAlone:
    """Plan the textbook case.

    Args:
        model: how fast a device is.
        rows: of the night.
        devices: how many; if None, the fewest that meet the deadline, or 1.
        deadline: in seconds.
        price: dollars of a device for an hour.
    """
    if devices is None:
        devices = model.devices(rows, deadline) if deadline else 1
    seconds = model.seconds(rows, devices)
    return ModelAlone(
        rows,
        devices,
        model.rate,
        model.batch_rows,
        model.batch_ms,
        model.batches(rows),
        seconds,
        deadline,
        None if deadline is None else seconds <= deadline,
        price,
        None if price is None else seconds / 3600 * devices * price,
        list(LEFT_OUT),
    )
