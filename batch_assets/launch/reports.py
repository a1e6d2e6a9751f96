"""What came of a run: a result of Dagster, read into a typed report.

It knows what the assets say in their metadata, and nothing of how a report is printed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import dagster as dg
from dagster import ExecuteInProcessResult

from batch_assets.assets.step_errors import is_failed_check, is_interrupted, reason_of


@dataclass(frozen=True)
class NightReport:
    """One night in a row of a table; `errors` says why it did not succeed.

    A night that was interrupted goes on where it was when it is run again. `served_why`
    says why its version is served, or why it is not.
    """

    day: str
    success: bool
    interrupted: bool = False
    raw_rows: int | None = None
    quarantined_rows: int | None = None
    scored_rows: int | None = None
    dead_letters: int | None = None
    checks_passed: int = 0
    checks: int = 0
    resumed_chunks: int | None = None
    unchanged: bool = False
    rows_per_second: float | None = None
    version: str | None = None
    served_version: str | None = None
    served_why: str | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, result: ExecuteInProcessResult, day: str) -> Self:
        """Read the report of a night."""
        metadata, failures = _metadata(result), failures_of(result)
        validated = metadata.get("validated_features", {})
        predictions = metadata.get("predictions", {})
        snapshot = metadata.get("serving_snapshot", {})
        checks = result.get_asset_check_evaluations()
        failed = [check for check in checks if not check.passed]
        return cls(
            day=day,
            success=result.success and not failures,
            interrupted=_is_interrupted(result),
            raw_rows=metadata.get("raw_features", {}).get("raw_rows"),
            quarantined_rows=validated.get("quarantined_rows"),
            scored_rows=predictions.get("scored_rows"),
            dead_letters=predictions.get("dead_letters"),
            checks_passed=len(checks) - len(failed),
            checks=len(checks),
            resumed_chunks=predictions.get("resumed_chunks"),
            unchanged=bool(predictions.get("unchanged")),
            rows_per_second=predictions.get("rows_per_second"),
            version=snapshot.get("version"),
            served_version=snapshot.get("served_version"),
            served_why=snapshot.get("why"),
            errors=failures,
            warnings=_warnings_of(result),
        )


@dataclass(frozen=True)
class ReplayReport:
    """What came of replaying a day's dead letters."""

    pipeline: str
    day: str
    success: bool
    interrupted: bool = False
    replayed_rows: int | None = None
    rescued_rows: int | None = None
    dead_letters: int | None = None
    served_version: str | None = None
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, result: ExecuteInProcessResult, pipeline: str, day: str) -> Self:
        """Read the report of a replay."""
        metadata, failures = _metadata(result), failures_of(result)
        predictions = metadata.get("predictions", {})
        return cls(
            pipeline=pipeline,
            day=day,
            success=result.success and not failures,
            interrupted=_is_interrupted(result),
            replayed_rows=predictions.get("replayed_rows"),
            rescued_rows=predictions.get("rescued_rows"),
            dead_letters=predictions.get("dead_letters"),
            served_version=metadata.get("serving_snapshot", {}).get("served_version"),
            errors=failures,
        )


@dataclass(frozen=True)
class OutcomesReport:
    """What came of judging a day's predictions by what happened.

    `metrics` are those of all rows, by name, and what was estimated of them.
    """

    day: str
    success: bool
    interrupted: bool = False
    predicted_rows: int | None = None
    known_rows: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    checks_passed: int = 0
    checks: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, result: ExecuteInProcessResult, day: str) -> Self:
        """Read the report of a day's outcomes."""
        metadata, failures = _metadata(result).get("outcomes", {}), failures_of(result)
        checks = result.get_asset_check_evaluations()
        return cls(
            day=day,
            success=result.success and not failures,
            interrupted=_is_interrupted(result),
            predicted_rows=metadata.get("predicted_rows"),
            known_rows=metadata.get("known_rows"),
            metrics={
                name: value
                for name, value in metadata.items()
                if isinstance(value, float) and name != "known_share"
            },
            checks_passed=sum(check.passed for check in checks),
            checks=len(checks),
            errors=failures,
            warnings=_warnings_of(result),
        )


@dataclass(frozen=True)
class ComparisonReport:
    """What came of comparing two releases: the digest of the comparison, if there is one."""

    success: bool
    interrupted: bool = False
    comparison: str | None = None
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, result: ExecuteInProcessResult) -> Self:
        """Read the report of a comparison."""
        failures = failures_of(result)
        metadata = _metadata(result).get("release_comparison", {})
        return cls(
            success=result.success and not failures,
            interrupted=_is_interrupted(result),
            comparison=metadata.get("comparison"),
            errors=failures,
        )


@dataclass(frozen=True)
class DayOutcome:
    """What came of one day of a range, and how long it took."""

    report: NightReport
    seconds: float

    @property
    def state(self) -> str:
        """done, unchanged, failed or interrupted."""
        if self.report.interrupted:
            return "interrupted"
        if not self.report.success:
            return "failed"
        return "unchanged" if self.report.unchanged else "done"


def _warnings_of(result: ExecuteInProcessResult) -> list[str]:
    return [
        f"{check.check_name}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    ]


def failures_of(result: ExecuteInProcessResult) -> list[str]:
    """Say why a run did not succeed: each blocking check that failed, each step's error."""
    checks = [
        f"{check.check_name}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    ]
    return list(dict.fromkeys([*checks, *_step_messages(result)]))


def _metadata(result: ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """The metadata of what was materialized, by the asset's own name."""
    metadata: dict[str, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        of_asset = event.materialization
        metadata[of_asset.asset_key.path[-1]] = {
            name: value.value for name, value in of_asset.metadata.items()
        }
    return metadata


def _is_interrupted(result: ExecuteInProcessResult) -> bool:
    """Whether a signal ended the run."""
    return any(is_interrupted(error) for _, error in _step_errors(result))


def _step_errors(result: ExecuteInProcessResult) -> Iterator[tuple[str, Any]]:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            yield event.step_key or "", event.step_failure_data.error


def _step_messages(result: ExecuteInProcessResult) -> Iterator[str]:
    """What the steps raised; a failed blocking check has said so itself already."""
    for step, error in _step_errors(result):
        if not is_failed_check(error):
            yield reason_of(step, error)
