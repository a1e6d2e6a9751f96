"""What stands behind a row, in sections of lines: for a terminal, and as one page.

It looks nothing up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from batch_assets.models.registry import ApprovalEvent
from batch_assets.quality.verdict_record import JudgedDay
from batch_assets.reports.page import page_from
from batch_assets.snapshots.provenance import Provenance, ServedValue

TEMPLATE = "explained.html.jinja"
# Columns that rows bear beside what the model said; they are told elsewhere.
STAMPS = ("model_name", "model_version", "fingerprint", "stage", "reason", "rules")
# A longer list is shown so far.
SHOWN_ITEMS = 20


@dataclass(frozen=True)
class Section:
    """What is said of one thing, a line each."""

    title: str
    lines: tuple[str, ...]


def sections_of(found: Provenance) -> list[Section]:
    """Say what is known of a key, from the served value down to the source."""
    return [Section(title, tuple(lines)) for title, lines in _sections(found)]


def explained_page(found: Provenance) -> str:
    """Return the same as one file of HTML that needs no server, network or script."""
    first, *others = sections_of(found)
    return page_from(TEMPLATE, found=found, first=first, sections=others)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _sections(found: Provenance) -> Iterator[tuple[str, list[str]]]:
    yield "key", [f"{found.key} of {found.pipeline}, {found.day}: {found.fate}"]
    yield "served", _served(found)
    if found.row:
        yield found.fate.split()[-1], _values(found.row)
    if why := _why(found.row):
        yield "why", why
    yield "release", _release(found)
    yield (
        "runs",
        [
            f"{step.table}: committed {_time(step.committed_at)} as version "
            f"{step.version}, {f'run {step.run}' if step.run else 'by no run that is known'}, "
            f"{step.code or 'code unknown'}"
            for step in found.steps
        ],
    )
    yield "books", _books(found)
    yield "gates", _gates(found.judged)
    yield "features", _values(found.features) if found.features else ["not validated"]
    if found.source_row:
        yield "source", [*_values(found.source_row), *_identity(found.source)]
    else:
        yield "source", list(_identity(found.source))
    if found.notes:
        yield "note", list(found.notes)


def _served(found: Provenance) -> list[str]:
    served = found.served
    if served is None:
        return ["no version of the day is there"]
    manifest, outputs = served.manifest, served.outputs
    lines = [*_values(outputs)] if outputs else [f"nothing for '{found.key}'"]
    if served.is_fallback:
        lines[:0] = ["the night has no such key; readers get the fallback:"]
    state = "served now" if served.is_served else "not what is served now"
    stale = ", stale" if manifest.is_stale else ""
    lines.append(f"version {manifest.version}, {state}{stale}")
    lines += _published(served)
    lines += [f"{one.gate} was {one}" for one in manifest.overrides]
    if not served.of_these_predictions:
        lines.append(
            "the day was scored again since and not published: what follows is of the "
            "newer predictions"
        )
    return lines


def _published(served: ServedValue) -> list[str]:
    entry = served.published
    if entry is None:
        return ["it was never published"]
    return [f"published {_time(entry.at)} by {entry.by}: {entry.why}"]


def _why(row: Mapping[str, Any] | None) -> list[str]:
    """Why a row has no prediction, in the words of quarantine or of the dead letter."""
    if row is None:
        return []
    said = [row[name] for name in ("rules", "reason") if row.get(name)]
    return [text for one in said for text in (one if isinstance(one, list) else [one])]


def _release(found: Provenance) -> list[str]:
    release = found.release
    if release is None:
        return ["the day is not scored"]
    return [
        f"{release.name} {release.digest}",
        *(_approval(event) for event in release.approvals),
    ]


def _approval(event: ApprovalEvent) -> str:
    until = f", until {_time(event.until)}" if event.until else ""
    act = {"approve": "approved", "revoke": "revoked"}[event.act]
    rests = f". Evidence: {event.evidence.finding}" if event.evidence else ""
    return (
        f"{act} for {event.channel} {_time(event.at)} by {event.by}{until}: "
        f"{event.why}{rests}"
    )


def _books(found: Provenance) -> list[str]:
    return [
        f"{what}: "
        + ", ".join(f"{total.rows:,} {side}" for side, total in page.sides().items())
        for what, page in (
            (f"shard {found.shard} of {found.shards}", found.page),
            ("the day", found.day_page),
        )
    ] + ["they close" if found.books_close else "they DON'T close"]


def _gates(judged: JudgedDay | None) -> list[str]:
    if judged is None:
        return ["nobody tried to publish the day, or it was before verdicts were kept"]
    shut = [v for v in judged.verdicts if not v.passed]
    is_open = len(judged.verdicts) - len(shut)
    lines = [f"{is_open} of {len(judged.verdicts)} open {_time(judged.judged_at)}"]
    return lines + [
        f"{v.gate} {'shut' if v.blocks else 'warned'}: {v.message}" for v in shut
    ]


def _values(row: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_value(v)}" for name, v in row.items() if name not in STAMPS]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > SHOWN_ITEMS:
        return f"{[*value[:SHOWN_ITEMS]]} and {len(value) - SHOWN_ITEMS:,} more"
    return str(value)


def _identity(source: Any, name: str = "") -> Iterator[str]:
    """What names the source, a line for each leaf."""
    if isinstance(source, dict):
        for inner, value in source.items():
            yield from _identity(value, f"{name}.{inner}".lstrip("."))
    elif isinstance(source, list) and source and isinstance(source[0], list | dict):
        for value in source:
            yield from _identity(value, name)
    elif source is not None:
        said = " ".join(map(str, source)) if isinstance(source, list) else source
        yield f"{name}: {said}"
