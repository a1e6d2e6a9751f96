"""What really happened, as a pipeline's YAML declares it. It runs nothing."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from batch_assets.lake.sources import Source
from batch_assets.spec.schedules import daily
from batch_assets.strict import StrictModel

Task = Literal["binary", "multiclass", "regression", "ranking"]


class OutcomesSpec(StrictModel):
    """What really happened to what was predicted: by key and day, some days later."""

    source: Source
    output: str = Field(description="The output that is judged by it.")
    task: Task = Field(
        description="What the output is: `binary` (a probability; the outcome is true, "
        "false, 1 or 0), `multiclass` (a label; a class), `regression` (a number; a "
        "number), `ranking` (a ranking; the list of items that were right)."
    )
    column: str | None = Field(
        default=None,
        description="The source's column that says what happened, null where nobody "
        "knows; the output's name if left out.",
    )
    probability: str | None = Field(
        default=None,
        description="Of `multiclass`: the output that is the calibrated probability of "
        "the label, from which its accuracy is estimated.",
    )
    after_days: int = Field(
        default=1,
        ge=0,
        description="So many days after its own a day's outcomes are known.",
    )
    schedule: str = Field(
        default="0 6 * * *", description="When they are taken, as cron, once a day."
    )
    min_known: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of the predictions whose outcome must be known; warns.",
    )

    _schedule_is_daily = field_validator("schedule")(daily)

    @model_validator(mode="after")
    def _probability_is_of_a_label(self) -> Self:
        if self.probability and self.task != "multiclass":
            msg = (
                f"`probability` belongs to the task multiclass, and the task is "
                f"{self.task}: leave it out"
            )
            raise ValueError(msg)
        return self

    @property
    def value(self) -> str:
        """The source's column that says what happened."""
        return self.column or self.output
