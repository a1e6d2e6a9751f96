"""What a pipeline is judged by, what scores it, and how long it is served."""

from typing import Literal

from pydantic import Field

from batch_assets.strict import StrictModel

# How long the model may take over a chunk before it counts as hanging.
CHUNK_SECONDS = 600.0


class Model(StrictModel):
    """Which model scores: the release that the registry has approved last for it."""

    name: str = Field(description="The model's name in the registry.")


# What a gate that is shut does to a night.
Effect = Literal["block", "warn", "off"]


class GateLimits(StrictModel):
    """The limits that a night is judged by; shares are between 0 and 1."""

    max_quarantine_share: float = Field(
        default=0.01, ge=0, le=1, description="Quarantined rows over raw rows."
    )
    max_dead_letter_share: float = Field(
        default=0.001, ge=0, le=1, description="Dead letters over validated rows."
    )
    min_coverage: float = Field(
        default=0.99, ge=0, le=1, description="Scored rows over raw rows."
    )
    max_kept_share: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="With `on_failed_shard: keep_previous`: the share of the shards that may "
        "serve what an earlier night left.",
    )
    max_volume_change: float = Field(
        default=0.5,
        gt=0,
        description="How far the raw rows may be off the trailing median.",
    )
    volume_days: int = Field(
        default=28, ge=1, description="How many committed days the median is over."
    )
    volume: Effect = Field(
        default="warn",
        description="What a number of raw rows that is further off than usual does to the "
        "night: `block` stops it before a row is scored.",
    )
    repeated_day: Effect = Field(
        default="warn",
        description="What a day does whose features are all distributed exactly as on a "
        "night before: `block` stops it before it is served.",
    )
    warn_psi: float = Field(
        default=0.25, gt=0, description="Prediction drift below which no night warns."
    )
    max_psi: float = Field(
        default=1.0,
        gt=0,
        description="Prediction drift below which no night is stopped.",
    )
    drift: dict[str, Effect] = Field(
        default_factory=dict,
        description="By column of features, inputs or outputs, what a change that is no "
        "chance does to the night. Else outputs stop it, and features warn.",
    )


class Shadow(StrictModel):
    """A challenger: a release that scores beside the approved one, and is never served."""

    release: str = Field(
        min_length=6,
        description="Its digest in the registry, or the beginning of it.",
    )
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="The share of the rows that it scores, in whole shards.",
    )


class FallbackSpec(StrictModel):
    """What a key gets that the night does not cover: a row of a side table."""

    table: str = Field(
        description="Of `side_tables`: a row with the release's outputs, as predictions "
        "have them."
    )
    by: str | None = Field(
        default=None,
        description="A column of the table: there is a row for each segment, and where "
        "it is null, one for all others.",
    )


class Serving(StrictModel):
    """The serving snapshot."""

    keep: int = Field(default=7, ge=2, description="How many versions stay on disk.")
    keep_minutes: float = Field(
        default=60,
        ge=0,
        allow_inf_nan=False,
        description="No version younger than this is removed: readers need time to "
        "move on.",
    )
    stale_hours: float = Field(
        default=36,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Readers call a version that is older than this stale.",
    )
    fallback: FallbackSpec | None = Field(
        default=None, description="What a key gets that the night does not cover."
    )
