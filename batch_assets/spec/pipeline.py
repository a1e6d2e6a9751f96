"""A pipeline as its YAML declares it. It runs nothing."""

import re
from datetime import date
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, Field, field_validator, model_validator

from batch_assets.lake.page_layout import FeatureLayout
from batch_assets.lake.sources import Source
from batch_assets.spec.alerts import AlertsSpec
from batch_assets.spec.engines import DEFAULT_ENGINE, EngineSpec, engine_names
from batch_assets.spec.limits import CHUNK_SECONDS, GateLimits, Model, Serving, Shadow
from batch_assets.spec.outcomes import OutcomesSpec
from batch_assets.spec.schedules import clock_time, daily, is_next_morning
from batch_assets.spec.sinks import EXPERIMENTAL, Target
from batch_assets.strict import NAME, StrictModel


class PipelineSpec(StrictModel):
    """One scoring job: what is scored, by which model, when, and how it is judged."""

    name: str = Field(
        pattern=NAME,
        description="Prefixes every asset, and names the folders on disk.",
    )
    description: str = Field(default="", description="What the pipeline is for.")
    owners: list[str] = Field(
        default_factory=list, description="`team:name` or an e-mail address."
    )
    start_day: date = Field(description="The first day that can be scored.")
    end_day: date | None = Field(
        default=None, description="The last day that can be scored; open if left out."
    )
    timezone: str = Field(default="UTC", description="In which a day begins and ends.")
    schedule: str = Field(
        default="30 0 * * *", description="When the day just ended is scored, as cron."
    )
    ready_by: Annotated[
        str | None, BeforeValidator(clock_time, json_schema_input_type=str | int | None)
    ] = Field(
        default=None,
        description="By when what is served is to be of the day, as `06:00` in the time "
        "zone of the pipeline; no deadline if left out.",
    )
    cost_per_hour: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="What an hour of all that a night runs on costs, in any currency.",
    )
    source: Source
    side_tables: dict[str, Source] = Field(
        default_factory=dict,
        description="Small tables of the day, each from a source of its own, by name: "
        "what the release leaves items out by, and what `serving.fallback` names.",
    )
    upstream: Literal["wait", "include"] = Field(
        default="wait",
        description="With `deps` or a source that is an asset: `wait` begins a night once "
        "they are there for its day; `include` makes them, with all that they need, in the "
        "night.",
    )
    model: Model
    shards: int = Field(default=16, ge=1, le=10_000)
    row_group_rows: int = Field(
        default=131_072,
        ge=1,
        description="Rows of a row group of the lake's files, at most.",
    )
    layout: FeatureLayout | None = Field(
        default=None,
        description="How validated features lie on disk: fast (as they lie in memory) "
        "or compact (a tenth to a half of the bytes less); fast in a directory and "
        "compact in a bucket, if left out.",
    )
    chunk_rows: int = Field(
        default=262_144,
        ge=1,
        description="Rows of a chunk, in whole row groups: the unit of scoring.",
    )
    chunk_seconds: float = Field(
        default=CHUNK_SECONDS,
        gt=0,
        allow_inf_nan=False,
        description="How long the model may take over a chunk; the rows that it hangs "
        "on become dead letters.",
    )
    grace_seconds: float = Field(
        default=20,
        ge=0,
        allow_inf_nan=False,
        description="How long chunks in flight may go on when the night is interrupted.",
    )
    engine: EngineSpec = Field(
        default_factory=lambda: DEFAULT_ENGINE,
        description="Where features are validated and chunks are scored: "
        f"{engine_names()}, alone or as the `kind` of its settings.",
    )
    incremental: bool = Field(
        default=False,
        description="Rows that have not changed since the night before, under the same "
        "release, take over its prediction.",
    )
    full_every: int = Field(
        default=7,
        ge=1,
        description="With `incremental`: each so many nights every row is scored.",
    )
    rescored_share: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="With `incremental`: the share of the rows that are scored although "
        "they could be taken over, and must come out equal.",
    )
    segments: list[str] = Field(
        default_factory=list,
        description="Columns of the contract, such as `country`: a night is compared with "
        "those before it for each of their values, too.",
    )
    allow_empty: bool = Field(
        default=False, description="A day without rows is no error."
    )
    gates: GateLimits = Field(default_factory=GateLimits)
    serving: Serving = Field(default_factory=Serving)
    on_failed_shard: Literal["stop", "keep_previous"] = Field(
        default="stop",
        description="What a shard does to the night that can't be scored: it stops it, or "
        "keeps being served as an earlier night left it, and the others are published.",
    )
    shadow: Shadow | None = Field(
        default=None,
        description="A release that scores each night beside the approved one, to be "
        "compared with it.",
    )
    outcomes: OutcomesSpec | None = Field(
        default=None,
        description="What really happened: predictions are judged by it when it arrives.",
    )
    sinks: list[Target] = Field(
        default_factory=list, description="Remote stores that serve the snapshot, too."
    )
    alerts: AlertsSpec | None = Field(
        default=None, description="Who is told when something goes wrong."
    )

    @property
    def upstream_assets(self) -> list[str]:
        """The assets of the project that a night needs, each once."""
        sources = [self.source, *self.side_tables.values()]
        return list(dict.fromkeys(name for s in sources for name in s.asset_names))

    @property
    def waits(self) -> bool:
        """Whether a night begins when what it needs is there, and not by the clock."""
        return self.upstream == "wait" and bool(self.upstream_assets)

    @field_validator("owners")
    @classmethod
    def _owners_are_teams_or_addresses(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not re.match(r"^(team:.+|[^@\s]+@[^@\s]+\.[^@\s]+)$", owner):
                msg = f"an owner is 'team:name' or an e-mail address, got '{owner}'"
                raise ValueError(msg)
        return owners

    @field_validator("side_tables")
    @classmethod
    def _side_tables_need_no_books(cls, tables: dict[str, Source]) -> dict[str, Source]:
        for name, source in tables.items():
            if source.asks_commits:
                msg = (
                    f"the side table '{name}' can't be of kind '{source.kind}': where a "
                    "day of it begins and ends is kept in commits, which a side table has "
                    "none of. Take a file, a query or a table"
                )
                raise ValueError(msg)
        return tables

    @field_validator("sinks")
    @classmethod
    def _sinks_have_names_of_their_own(cls, sinks: list[Target]) -> list[Target]:
        names = [sink.name for sink in sinks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            msg = f"two sinks are named '{twice[0]}': give one another `name`"
            raise ValueError(msg)
        return sinks

    @field_validator("sinks")
    @classmethod
    def _experiments_are_chosen(cls, sinks: list[Target]) -> list[Target]:
        # Not in the sink's own type: what an earlier night declared can still be read.
        for sink in sinks:
            if sink.kind in EXPERIMENTAL and not getattr(sink, "experimental", False):
                msg = (
                    f"the sink '{sink.name}' is experimental: {EXPERIMENTAL[sink.kind]}. "
                    "Say `experimental: true` to use it, and prove what it holds with "
                    "`batch-assets sinks verify` before anything depends on it"
                )
                raise ValueError(msg)
        return sinks

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            msg = f"a timezone is a name such as 'Europe/Oslo', got '{timezone}'"
            raise ValueError(msg)
        ZoneInfo(timezone)
        return timezone

    _schedule_is_daily = field_validator("schedule")(daily)

    @model_validator(mode="after")
    def _fallback_is_a_side_table(self) -> Self:
        fallback = self.serving.fallback
        if fallback and fallback.table not in self.side_tables:
            msg = (
                f"the fallback is the side table '{fallback.table}', and `side_tables` "
                f"are {sorted(self.side_tables) or 'none'}"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _night_can_be_ready(self) -> Self:
        if self.ready_by is not None:
            is_next_morning(self.schedule, self.ready_by)
        return self

    @model_validator(mode="after")
    def _days_are_in_order(self) -> Self:
        if self.end_day is not None and self.end_day < self.start_day:
            msg = f"end_day {self.end_day} is before start_day {self.start_day}"
            raise ValueError(msg)
        return self
