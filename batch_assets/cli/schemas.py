"""What each command prints with --json, as types; the page of the docs is made of them.

    python -m batch_assets.cli.schemas > docs/json.md

No command imports it. Fields may be added to what is printed; none is removed, renamed or
given another type.
"""

from collections.abc import Iterator
from typing import Any, Literal, NotRequired

import click
from pydantic import AwareDatetime, TypeAdapter
from typing_extensions import TypedDict

from batch_assets.alerts.alert import Alert
from batch_assets.alerts.notifier import Outcome
from batch_assets.lake.overrides import Override
from batch_assets.launch.checked_plans import CheckReport
from batch_assets.launch.deadline import DeadlineReport
from batch_assets.launch.doctor.findings import Finding
from batch_assets.launch.new_project import NewProject
from batch_assets.launch.planned_night import PlanReport
from batch_assets.launch.reports import NightReport, OutcomesReport, ReplayReport
from batch_assets.models.comparisons import ComparedDay, Difference, Evidence
from batch_assets.models.release import Format
from batch_assets.models.release_states import ReleaseState
from batch_assets.planner.model_alone import ModelAlone
from batch_assets.scoring.sweep_results import Point, Sweep
from batch_assets.sinks.operations import SinkCopy
from batch_assets.snapshots.denylist import DeniedItem
from batch_assets.snapshots.history import Act, HistoryEntry
from batch_assets.snapshots.listing import ListedVersion

Row = dict[str, Any]


class Delivered(TypedDict):
    state: str
    why: str | None


class Told(TypedDict):
    at: AwareDatetime
    state: str
    open: bool
    message: str
    alert: Alert
    receivers: dict[str, Delivered]


class Looked(TypedDict):
    pipeline: str
    said: str


class Total(TypedDict):
    rows: int
    keys: str


class Books(TypedDict):
    pipeline: str
    day: str
    closed: bool
    kept_shards: list[int]
    forced_at: AwareDatetime | None
    shards: dict[str, dict[str, Total]]


class KeptShard(TypedDict):
    shard: int
    day: str
    why: str


class Answered(TypedDict):
    key: int | str
    outputs: Row
    is_fallback: bool
    segment: NotRequired[int | str | None]
    version: str
    day: str
    model_name: str
    model_version: str
    age: float
    is_stale: bool
    coverage: float
    kept: NotRequired[Row]
    overrides: NotRequired[list[Row]]


class DemoDone(TypedDict):
    nights: list[NightReport]
    lookup: Answered | None


class DenylistChanged(TypedDict):
    denied: list[str]
    allowed: list[str]
    unknown: list[str]
    items: list[str]


class Explained(TypedDict):
    pipeline: str
    key: int | str
    day: str
    fate: str
    served: Row | None
    row: Row | None
    features: Row | None
    source_row: Row | None
    source: Row
    steps: list[Row]
    release: Row | None
    books: Row
    gates: Row | None
    notes: list[str]


class OutcomeMetric(TypedDict):
    day: str
    column: str
    segment_column: str | None
    segment: str | None
    metric: str
    kind: str
    value: float | str
    rows: int
    release: str


class Compared(TypedDict):
    comparison: str
    version: int
    at: AwareDatetime
    by: str
    pipeline: str
    model: str
    champion: str
    challenger: str
    days: list[ComparedDay]
    differences: list[Difference]


class Named(TypedDict):
    name: str
    digest: str


class Added(Named):
    golden_rows: int
    format: Format
    written_by: dict[str, str]


class Signed(Named):
    key: str


class Verified(Named):
    ok: bool


class Written(Named):
    folder: str
    contract: Row


class Approved(Named):
    at: AwareDatetime
    act: Literal["approve", "revoke"]
    channel: Literal["batch", "online"]
    by: str
    why: str
    until: AwareDatetime | None
    evidence: Evidence | None


class Reported(TypedDict):
    pipeline: str
    day: str
    path: str
    headline: Row
    books_add_up: bool | None


class SinkFollowed(TypedDict):
    sink: str
    version: str | None
    why: str | None
    error: str | None


class SinkOfVersion(TypedDict):
    sink: str
    version: str


class SinksListed(TypedDict):
    served_here: str | None
    sinks: list[SinkCopy]


class Pointed(TypedDict):
    pipeline: str
    at: AwareDatetime
    act: Act
    version: str | None
    before: str | None
    by: str
    why: str
    until: AwareDatetime | None
    items: NotRequired[list[str]]
    served: str | None
    blocked_until: AwareDatetime | None


class VersionVerified(TypedDict):
    version: str
    problem: str | None
    ok: bool


class AuditFile(TypedDict):
    version: str
    path: str


class Swept(TypedDict):
    sweep: Sweep
    knee: Point
    path: str


# The types of dataclasses are extended by what a command adds to them.
ADDED: dict[str, dict[str, Any]] = {
    "publish": {"overrides": list[Override]},
    "run --from": {"state": str, "seconds": float},
}
SCHEMAS: dict[str, Any] = {
    "alerts list": list[Told],
    "alerts look": Looked,
    "alerts test": list[Outcome],
    "books": Books,
    "dead-letters list": list[Row],
    "dead-letters replay": ReplayReport,
    "deadline": DeadlineReport,
    "demo": DemoDone,
    "denylist add": DenylistChanged,
    "denylist remove": DenylistChanged,
    "denylist replace": DenylistChanged,
    "denylist show": list[DeniedItem],
    "doctor": list[Finding],
    "explain": Explained,
    "init": NewProject,
    "lookup": Answered,
    "outcomes run": list[OutcomesReport],
    "outcomes show": list[OutcomeMetric],
    "plan": PlanReport | ModelAlone,
    "plan --check": CheckReport,
    "publish": NightReport,
    "release add": Added,
    "release approve": Approved,
    "release compare": Compared,
    "release import": Written,
    "release list": list[ReleaseState],
    "release new": Written,
    "release revoke": Approved,
    "release sign": Signed,
    "release verify": list[Verified],
    "report": Reported,
    "run": NightReport,
    "run --from": list[NightReport],
    "sinks drop": list[SinkOfVersion],
    "sinks follow": list[SinkFollowed],
    "sinks list": SinksListed,
    "sinks verify": list[SinkOfVersion],
    "snapshot history": list[HistoryEntry],
    "snapshot list": list[ListedVersion],
    "snapshot pin": Pointed,
    "snapshot rollback": Pointed,
    "snapshot sql": list[Row] | AuditFile,
    "snapshot unblock": Pointed,
    "snapshot unpin": Pointed,
    "snapshot verify": list[VersionVerified],
    "sweep": Swept,
}


def schema_of(path: str) -> dict[str, Any]:
    """Return the JSON schema of what a command prints, without references."""
    whole = TypeAdapter(SCHEMAS[path]).json_schema(mode="serialization")
    inlined: dict[str, Any] = _inlined(whole, whole.get("$defs", {}))
    body = inlined.get("items", inlined)
    for name, added in ADDED.get(path, {}).items():
        extra = TypeAdapter(added).json_schema(mode="serialization")
        body["properties"][name] = _inlined(extra, extra.get("$defs", {}))
    return inlined


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(one, known) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
    return {name: _inlined(v, known) for name, v in schema.items() if name != "$defs"}


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return schema.get("format") or schema.get("type") or "any"


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """A row of a table for each field, those of fields with the path to them."""
    for one in schema.get("anyOf", []):
        yield from _fields(one, path)
    if schema.get("type") == "array":
        yield from _fields(schema.get("items", {}), f"{path}[]" if path else "")
    for name, field in schema.get("properties", {}).items():
        yield f"| `{path}{'.' if path else ''}{name}` | {_type(field)} |"
        yield from _fields(field, f"{path}{'.' if path else ''}{name}")
    named = schema.get("additionalProperties")
    if isinstance(named, dict):
        yield from _fields(named, f"{path}.*")


def page() -> Iterator[str]:
    """Return the lines of the page of the docs."""
    yield "# What commands print with --json\n"
    yield (
        "Made by `python -m batch_assets.cli.schemas`, and held against what commands "
        "really print\nby the tests. An answer is one JSON value on stdout; an error is one "
        'object in the last line of\nstderr, `{"error": {"kind", "message", "exit"}}`, and '
        "stdout is empty then ([cli.md](cli.md)).\nFields may be added; none is removed, "
        "renamed or given another type. `NaN` and `Infinity` are\nstrings, times are ISO "
        "8601 in UTC, `.*` stands for any name, and `[]` for each of a list.\n"
    )
    for path in SCHEMAS:
        schema = schema_of(path)
        yield f"## {path}\n"
        yield f"{_type(schema)[:1].upper()}{_type(schema)[1:]}.\n"
        if fields := list(dict.fromkeys(_fields(schema))):
            yield "| field | type |\n|---|---|"
            yield from fields
            yield ""


if __name__ == "__main__":
    click.echo("\n".join(page()).rstrip())
