"""`snapshot`: the versions that are, or were, served, and what an operator does to them."""

from datetime import datetime
from typing import TYPE_CHECKING

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE, VERSION
from batch_assets.cli.options import TIMES, as_json, because, in_utc
from batch_assets.cli.pipelines import snapshots_of
from batch_assets.cli.printing import print_json, print_table, time_of
from batch_assets.cli.sinks import tell_sinks
from batch_assets.errors import SnapshotError
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.snapshots.operations import Done

POINTERS = ("served", "current", "pinned")


@click.group()
def snapshot() -> None:
    """The versions that are, or were, served."""


@snapshot.command("list")
@click.argument("pipeline", type=PIPELINE)
@as_json
def snapshot_list(pipeline: str, as_json: bool) -> None:
    """The versions of PIPELINE on disk, the newest last, and what keeps one served."""
    from batch_assets.snapshots.listing import list_versions

    listing = list_versions(snapshots_of(pipeline))
    if as_json:
        print_json(listing.versions)
        return
    print_table(
        ["version", "rows", "release", "made", ""],
        [
            [
                version.version,
                f"{version.rows:,}",
                f"{version.model} {version.digest[:12]}",
                time_of(version.created_at, seconds=True),
                ", ".join(
                    [name for name in POINTERS if getattr(version, name)]
                    + [f"{gate} overridden" for gate in version.overridden_gates]
                    + [f"shard {n} kept" for n in version.kept_shards]
                ),
            ]
            for version in listing.versions
        ],
    )
    for pointer, name in listing.dangling.items():
        click.echo(f"{pointer} names {name}, which is not there or not whole")
    if listing.block:
        click.echo(str(listing.block))


@snapshot.command("rollback")
@click.argument("pipeline", type=PIPELINE)
@click.option(
    "--to", type=VERSION, help="A version; the one served before if left out."
)
@click.option(
    "--until",
    type=click.DateTime(TIMES),
    callback=in_utc,
    help="When nights publish again, UTC.",
)
@because
@as_json
def snapshot_rollback(
    pipeline: str,
    to: str | None,
    until: datetime | None,
    why: str,
    by: str | None,
    as_json: bool,
) -> None:
    """Serve an earlier version of PIPELINE again, and let no night publish for a while.

    For 24 hours, unless --until says otherwise, nights build their version and don't
    serve it. `snapshot unblock` ends that earlier.
    """
    from batch_assets.snapshots.operations import rollback

    store = snapshots_of(pipeline)
    _print_done(pipeline, rollback(store, why=why, to=to, by=by, until=until), as_json)
    tell_sinks(store, quiet=as_json)


@snapshot.command("pin")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version", type=VERSION)
@because
@as_json
def snapshot_pin(
    pipeline: str, version: str, why: str, by: str | None, as_json: bool
) -> None:
    """Let readers of PIPELINE take VERSION, whatever is published, until it is unpinned."""
    from batch_assets.snapshots.operations import pin

    store = snapshots_of(pipeline)
    _print_done(pipeline, pin(store, version, why=why, by=by), as_json)
    tell_sinks(store, quiet=as_json)


@snapshot.command("unpin")
@click.argument("pipeline", type=PIPELINE)
@because
@as_json
def snapshot_unpin(pipeline: str, why: str, by: str | None, as_json: bool) -> None:
    """Let readers of PIPELINE take the current version again."""
    from batch_assets.snapshots.operations import unpin

    store = snapshots_of(pipeline)
    _print_done(pipeline, unpin(store, why=why, by=by), as_json)
    tell_sinks(store, quiet=as_json)


@snapshot.command("unblock")
@click.argument("pipeline", type=PIPELINE)
@because
@as_json
def snapshot_unblock(pipeline: str, why: str, by: str | None, as_json: bool) -> None:
    """Let the nights of PIPELINE publish again after a rollback."""
    from batch_assets.snapshots.operations import unblock

    _print_done(pipeline, unblock(snapshots_of(pipeline), why=why, by=by), as_json)


@snapshot.command("verify")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version", type=VERSION, required=False)
@as_json
def snapshot_verify(pipeline: str, version: str | None, as_json: bool) -> None:
    """Hash every file of VERSION again, or of every version of PIPELINE."""
    from batch_assets.snapshots.operations import verify

    verified = verify(snapshots_of(pipeline), version)
    if as_json:
        print_json([{**vars(v), "ok": v.problem is None} for v in verified])
    else:
        for each in verified:
            problem = each.problem or "every file hashes as published"
            click.echo(f"{each.version}: {problem}")
    exit_unless(all(each.problem is None for each in verified))


@snapshot.command("sql")
@click.argument("pipeline", type=PIPELINE)
@click.argument("query", required=False)
@click.option("--version", type=VERSION, help="Which one; the served one if left out.")
@as_json
def snapshot_sql(
    pipeline: str, query: str | None, version: str | None, as_json: bool
) -> None:
    """Answer QUERY, in DuckDB's SQL, about a version of PIPELINE.

    The tables are snapshot, version (one row about it) and predictions (every day that
    is committed). Without QUERY, it prints where the version's DuckDB file is, for any
    client to open.
    """
    from batch_assets.lake.tables import Lake
    from batch_assets.snapshots.audit import ask, audit_copy

    store, lake = snapshots_of(pipeline), Lake(data_root(), pipeline)
    chosen = version or store.served()
    if chosen is None:
        msg = f"nothing of {pipeline} is served; name one with --version"
        raise SnapshotError(msg)
    if query is None:
        path = audit_copy(lake, store, chosen)
        if as_json:
            print_json({"version": chosen, "path": str(path)})
        else:
            click.echo(path)
        return
    columns, rows = ask(lake, store, chosen, query)
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [["" if c is None else str(c) for c in r] for r in rows])


@snapshot.command("history")
@click.argument("pipeline", type=PIPELINE)
@as_json
def snapshot_history(pipeline: str, as_json: bool) -> None:
    """What was done to what PIPELINE serves: who, when and why, the newest last."""
    entries, unreadable = snapshots_of(pipeline).history()
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in entries])
    else:
        print_table(
            ["when", "who", "act", "version or items", "why"],
            [
                [
                    time_of(e.at, seconds=True),
                    e.by,
                    e.act,
                    e.version or ", ".join(e.items) or "-",
                    e.why,
                ]
                for e in entries
            ],
        )
    if unreadable:
        click.echo(f"lines that can't be read: {unreadable}", err=True)
    exit_unless(not unreadable)


def _print_done(pipeline: str, done: "Done", as_json: bool) -> None:
    """Print what was done to what is served, and what follows from it."""
    entry, block = done.entry, done.block
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                **entry.model_dump(mode="json"),
                "served": done.served,
                "blocked_until": block.until if block else None,
            }
        )
        return
    version = entry.version or "-"
    click.echo(f"{pipeline}: {entry.act} of {version} by {entry.by}: {entry.why}")
    click.echo(f"served now: {done.served or 'nothing'}")
    if entry.act == "rollback" and done.served != entry.version:
        click.echo(
            f"readers are pinned to {done.served}; unpin to serve {entry.version}"
        )
    if block:
        click.echo(f"{block}. Nights are built and not served until then")
    if entry.act == "unblock":
        click.echo("run the newest day again to serve it, or wait for the next night")
