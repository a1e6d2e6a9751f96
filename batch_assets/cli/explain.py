"""`explain`: what stands behind what is served for a key."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.options import as_json, parse_day
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import print_json, time_of
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.models.registry import ApprovalEvent
    from batch_assets.quality.verdict_record import JudgedDay
    from batch_assets.snapshots.provenance import Provenance, ServedValue

# Columns that rows bear beside what the model said; they are told elsewhere.
STAMPS = ("model_name", "model_version", "fingerprint", "stage", "reason", "rules")


@click.command()
@click.argument("pipeline")
@click.argument("key")
@click.option(
    "--day", callback=parse_day, help="The day; of what is served if left out."
)
@as_json
def explain(pipeline: str, key: str, day: str | None, as_json: bool) -> None:
    """What stands behind what is served of PIPELINE for KEY.

    The value and its version, the release and who approved it, the runs and the code, the
    books of the day, what the gates said, the row as the model got it, and what names the
    source's very bytes. Of a key that is not served: where its row ended, and why.
    """
    from batch_assets.models.registry import Registry
    from batch_assets.snapshots.provenance import explain_key
    from batch_assets.snapshots.store import SnapshotStore

    lake, root = lake_of(pipeline), data_root()
    found = explain_key(lake, Registry(root), SnapshotStore(root, pipeline), key, day)
    if as_json:
        print_json(_json(found))
        return
    for title, lines in _sections(found):
        for number, line in enumerate(lines):
            click.echo(f"{'' if number else title:<9} {line}")


def _sections(found: "Provenance") -> Iterator[tuple[str, list[str]]]:
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
            f"{step.table}: committed {time_of(step.committed_at)} UTC as version "
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


def _served(found: "Provenance") -> list[str]:
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


def _published(served: "ServedValue") -> list[str]:
    entry = served.published
    if entry is None:
        return ["it was never published"]
    return [f"published {time_of(entry.at)} UTC by {entry.by}: {entry.why}"]


def _why(row: Mapping[str, Any] | None) -> list[str]:
    """Why a row has no prediction, in the words of quarantine or of the dead letter."""
    if row is None:
        return []
    said = [row[name] for name in ("rules", "reason") if row.get(name)]
    return [text for one in said for text in (one if isinstance(one, list) else [one])]


def _release(found: "Provenance") -> list[str]:
    release = found.release
    if release is None:
        return ["the day is not scored"]
    return [
        f"{release.name} {release.digest}",
        *(_approval(event) for event in release.approvals),
    ]


def _approval(event: "ApprovalEvent") -> str:
    until = f", until {time_of(event.until)} UTC" if event.until else ""
    act = {"approve": "approved", "revoke": "revoked"}[event.act]
    rests = f". Evidence: {event.evidence.finding}" if event.evidence else ""
    return (
        f"{act} for {event.channel} {time_of(event.at)} UTC by {event.by}{until}: "
        f"{event.why}{rests}"
    )


def _books(found: "Provenance") -> list[str]:
    return [
        f"{what}: "
        + ", ".join(f"{total.rows:,} {side}" for side, total in page.sides().items())
        for what, page in (
            (f"shard {found.shard} of {found.shards}", found.page),
            ("the day", found.day_page),
        )
    ] + ["they close" if found.books_close else "they DON'T close"]


def _gates(judged: "JudgedDay | None") -> list[str]:
    if judged is None:
        return ["nobody tried to publish the day, or it was before verdicts were kept"]
    shut = [v for v in judged.verdicts if not v.passed]
    is_open = len(judged.verdicts) - len(shut)
    lines = [
        f"{is_open} of {len(judged.verdicts)} open {time_of(judged.judged_at)} UTC"
    ]
    return lines + [
        f"{v.gate} {'shut' if v.blocks else 'warned'}: {v.message}" for v in shut
    ]


def _values(row: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_value(v)}" for name, v in row.items() if name not in STAMPS]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 20:
        return f"{[*value[:20]]} and {len(value) - 20:,} more"
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


def _json(found: "Provenance") -> dict[str, Any]:
    served, release, judged = found.served, found.release, found.judged
    pages = {"shard": found.page, "day": found.day_page}
    return {
        "pipeline": found.pipeline,
        "key": found.key,
        "day": found.day,
        "fate": found.fate,
        "served": served
        and {
            "outputs": served.outputs,
            "version": served.manifest.version,
            "created_at": served.manifest.created_at.isoformat(),
            "is_served": served.is_served,
            "is_stale": served.manifest.is_stale,
            "is_fallback": served.is_fallback,
            "of_these_predictions": served.of_these_predictions,
            "published": served.published and served.published.model_dump(mode="json"),
            "overrides": [o.model_dump(mode="json") for o in served.manifest.overrides],
        },
        "row": found.row,
        "features": found.features,
        "source_row": found.source_row,
        "source": found.source,
        "steps": [vars(step) for step in found.steps],
        "release": release
        and {
            "name": release.name,
            "digest": release.digest,
            "contract": release.contract,
            "approvals": [event.model_dump(mode="json") for event in release.approvals],
        },
        "books": {
            "shard": found.shard,
            "shards": found.shards,
            "closed": found.books_close,
            "rows": {
                name: {side: total.rows for side, total in page.sides().items()}
                for name, page in pages.items()
            },
        },
        "gates": judged
        and {
            "judged_at": judged.judged_at.isoformat(),
            "predictions": judged.predictions,
            "limits": judged.limits.model_dump(mode="json"),
            "verdicts": [
                {
                    **vars(verdict),
                    "override": verdict.override
                    and verdict.override.model_dump(mode="json"),
                }
                for verdict in judged.verdicts
            ],
        },
        "notes": found.notes,
    }
