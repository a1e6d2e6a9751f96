"""`batch-assets`: what a person types. Each command resolves, calls, and prints.

It imports what a command needs when the command runs, so that a lookup does not wait
for Dagster and torch.
"""

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from batch_assets.cli.engine_kind import EngineKind
from batch_assets.cli.printing import (
    print_act,
    print_answer,
    print_day,
    print_done,
    print_json,
    print_letters,
    print_nights,
    print_range,
    print_replay,
    print_sweep,
    print_table,
)
from batch_assets.errors import (
    BatchAssetsError,
    ConfigError,
    PipelineError,
    SnapshotError,
)
from batch_assets.root import data_root, project_folder
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.storage import StoragePath, is_local, local

DEMO_PIPELINE = "flights"
DEMO_MODEL = "flight_delay"
# What a shell gives for a command that a signal has interrupted.
INTERRUPTED = 130
DEMO_DAYS = [f"2013-07-{number}" for number in range(22, 29)]

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
of_channel = click.option(
    "--channel", type=click.Choice(["batch", "online"]), default="batch"
)


def because(command: Any) -> Any:
    """The options of a command that is recorded: why, and who."""
    by = click.option("--by", help="Who; the user of this machine if left out.")
    return click.option("--why", required=True, help="The reason, kept for good.")(
        by(command)
    )


def _day(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        msg = f"a day is written YYYY-MM-DD, got '{value}'"
        raise click.BadParameter(msg) from None


of_day = click.option("--day", required=True, callback=_day, help="YYYY-MM-DD.")


def _of_this_machine(error: OSError) -> str:
    """What the operating system says, with what to do if it is about `<root>`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}; make room, then run the same command again"
    root, named = data_root(), error.filename
    if not is_local(root) or not isinstance(named, str):
        return str(error)
    path = Path(named).absolute()
    if local(root).is_relative_to(path) or path.is_relative_to(local(root)):
        return f"{error}; <root> is {root}, set BATCH_ASSETS_ROOT to change it"
    return str(error)


class Commands(click.Group):
    """A group whose commands end in one clear line where the user is at fault."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BatchAssetsError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # Whoever reads has enough: click ends quietly.
        except OSError as error:
            raise click.ClickException(_of_this_machine(error)) from error


@click.group(cls=Commands)
@click.version_option(package_name="batch-assets")
def main() -> None:
    """Score a whole user base every night, and prove that it was done right."""


@main.command()
@as_json
def demo(as_json: bool) -> None:
    """Score a week of real nights, and look one flight up."""
    from batch_assets.errors import ReleaseError
    from batch_assets.models.registry import Registry
    from batch_assets.snapshots.version import Version

    registry = Registry(data_root())
    release = registry.add(project_folder() / "data" / "releases" / DEMO_MODEL)
    try:
        registry.require(DEMO_MODEL, release.digest)
    except ReleaseError:
        registry.approve(DEMO_MODEL, release.digest, why="the demo's own release")
    _say(f"release {release.name} {release.short} is registered and approved", as_json)
    knee = _sweep_once(release)
    _say(f"batches of {knee:,} rows are enough for it on this machine", as_json)
    reports = _run_nights(DEMO_PIPELINE, DEMO_DAYS)
    snapshot = Version.current(_snapshots(DEMO_PIPELINE))
    key = str(snapshot.shard(0).table[snapshot.manifest.key][0].as_py())
    answer = snapshot.get(key)
    if as_json:
        print_json({"nights": reports, "lookup": answer.to_dict() if answer else None})
    else:
        print_nights(reports)
        click.echo(f"\n$ batch-assets lookup {DEMO_PIPELINE} {key}")
        print_answer(answer)
    _exit_as(reports)


@main.command()
@click.argument("pipeline")
@click.option("--day", callback=_day, help="One day, YYYY-MM-DD.")
@click.option("--from", "first", callback=_day, help="The first of several days.")
@click.option(
    "--to",
    "last",
    callback=_day,
    help="The last; the newest that has ended if left out.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=1,
    help="With --from: how many days are scored at a time, each in a process; 1.",
)
@click.option(
    "--engine",
    type=EngineKind(),
    help="Where this night is validated and scored; as the YAML says if left out.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --day: take what a source without history holds now for an older day.",
)
@as_json
def run(
    pipeline: str,
    day: str | None,
    first: str | None,
    last: str | None,
    parallel: int,
    engine: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run one night of PIPELINE, or those of several days, through Dagster.

    A day is its assets and its checks. Of several, one that fails does not stop the
    others, and what is done is not done again: run the same command after whatever
    went wrong.
    """
    if (day is None) == (first is None):
        msg = "give either --day, or --from with or without --to"
        raise click.UsageError(msg)
    if force and day is None:
        msg = "--force is for one --day: each such day is marked, and meant by itself"
        raise click.UsageError(msg)
    if day is None:
        _run_range(pipeline, first or "", last, parallel, engine, as_json)
        return
    if last or parallel > 1:
        msg = "--to and --parallel belong to --from; --day is one day"
        raise click.UsageError(msg)
    reports = _run_nights(pipeline, [day], engine, force=force)
    if as_json:
        print_json(reports[0])
    else:
        print_nights(reports)
    _exit_as(reports)


@main.command()
@click.argument("model")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
)
@click.option("--compile", is_flag=True, help="Of the model as compiled code.")
@as_json
def sweep(
    model: str, device: str, precision: str, compile: bool, as_json: bool
) -> None:
    """Measure how many rows MODEL should get at once; nights on auto use it."""
    from batch_assets.models.registry import Registry
    from batch_assets.resources import GpuResource
    from batch_assets.scoring.engines.local import LocalEngine
    from batch_assets.scoring.sweep import Sweeps
    from batch_assets.scoring.sweep import sweep as measure

    release = Registry(data_root()).resolve(model)
    gpu = GpuResource(device=device, precision=precision, compile=compile)
    with gpu.reserve(data_root()) as held:
        _say(
            f"{release.name} {release.short} on {held.name} in {held.computes_in}",
            as_json,
        )
        found = measure(
            release,
            held,
            LocalEngine(held).workers,
            tried=lambda p: click.echo(
                f"{p.batch_rows:>9,} rows a batch {p.rows_per_second:>12,.0f} rows/s",
                err=True,
            ),
        )
    path = Sweeps(data_root()).keep(found)
    if as_json:
        print_json({"sweep": found, "knee": found.knee, "path": str(path)})
    else:
        print_sweep(found)


@main.group(cls=Commands)
def release() -> None:
    """Register models, and say who may use them."""


@release.command("add")
@click.argument("name")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@as_json
def release_add(name: str, folder: Path, as_json: bool) -> None:
    """Copy the release in FOLDER into the registry, under its digest."""
    from batch_assets.models.registry import Registry

    added = Registry(data_root()).add(folder, name)
    if as_json:
        print_json({"name": added.name, "digest": added.digest})
        return
    click.echo(f"{added.name} {added.digest}")
    click.echo(f"approve it: batch-assets release approve {name} {added.short} --why …")


@release.command("approve")
@click.argument("name")
@click.argument("digest")
@click.option("--why", required=True, help="The reason, kept for good.")
@click.option("--by", help="Who; the user of this machine if left out.")
@click.option("--until", type=click.DateTime(), help="When it runs out, UTC.")
@of_channel
@as_json
def release_approve(
    name: str,
    digest: str,
    why: str,
    by: str | None,
    until: datetime | None,
    channel: Any,
    as_json: bool,
) -> None:
    """Allow a release of NAME to be used, by its DIGEST or the beginning of it."""
    from batch_assets.models.registry import Registry

    act = Registry(data_root()).approve(
        name,
        digest,
        why=why,
        channel=channel,
        by=by,
        until=until.replace(tzinfo=UTC) if until else None,
    )
    print_act(name, act, as_json)


@release.command("revoke")
@click.argument("name")
@click.argument("digest")
@click.option("--why", required=True, help="The reason, kept for good.")
@click.option("--by", help="Who; the user of this machine if left out.")
@of_channel
@as_json
def release_revoke(
    name: str, digest: str, why: str, by: str | None, channel: Any, as_json: bool
) -> None:
    """Take an approval back: the next night refuses the release."""
    from batch_assets.models.registry import Registry

    act = Registry(data_root()).revoke(name, digest, why=why, channel=channel, by=by)
    print_act(name, act, as_json)


@release.command("list")
@click.argument("name", required=False)
@as_json
def release_list(name: str | None, as_json: bool) -> None:
    """The releases of NAME, or of every model, with the last act on each."""
    from batch_assets.models.registry import Registry

    registry = Registry(data_root())
    rows: list[dict[str, Any]] = []
    for model in [name] if name else registry.names():
        acts = registry.events(model)
        for digest in registry.digests(model):
            mine = [act for act in acts if act.digest == digest]
            channels: list[Any] = sorted({act.channel for act in mine}) or [None]
            for channel in channels:
                last = [act for act in mine if act.channel == channel][-1:]
                newest = [a for a in acts if (a.act, a.channel) == ("approve", channel)]
                rows.append(
                    {
                        "name": model,
                        "digest": digest,
                        "channel": channel,
                        "state": _state(last),
                        "in_use": _state(last) == "approved"
                        and newest[-1].digest == digest,
                        "at": last[0].at if last else None,
                        "by": last[0].by if last else None,
                        "why": last[0].why if last else None,
                    }
                )
    if as_json:
        print_json(rows)
        return
    print_table(
        ["name", "digest", "channel", "state", "", "since", "by", "why"],
        [
            [
                r["name"],
                r["digest"][:12],
                r["channel"] or "-",
                r["state"],
                "in use" if r["in_use"] else "",
                f"{r['at']:%Y-%m-%d %H:%M}" if r["at"] else "-",
                r["by"],
                r["why"],
            ]
            for r in rows
        ],
    )


def _state(last: Sequence[Any]) -> str:
    if not last:
        return "added"
    if last[0].act == "revoke":
        return "revoked"
    expired = last[0].until is not None and last[0].until <= datetime.now(UTC)
    return "expired" if expired else "approved"


@release.command("verify")
@click.argument("name")
@click.argument("digest", required=False)
@as_json
def release_verify(name: str, digest: str | None, as_json: bool) -> None:
    """Hash every file again, and replay the golden batch, of one release or of all."""
    from batch_assets.models.registry import Registry
    from batch_assets.scoring.device import find_device
    from batch_assets.scoring.scorer import Scorer

    registry = Registry(data_root())
    verified = [
        registry.reread(name, found)
        for found in ([digest] if digest else registry.digests(name))
    ]
    for found in verified:
        Scorer(found, find_device("cpu"))
    if as_json:
        print_json([{"name": r.name, "digest": r.digest, "ok": True} for r in verified])
        return
    for found in verified:
        click.echo(
            f"{found.name} {found.short}: {len(found.manifest.files)} files hash as "
            f"registered, {found.manifest.golden.rows} golden rows are reproduced"
        )


@main.command()
@click.argument("pipeline")
@click.argument("key")
@as_json
def lookup(pipeline: str, key: str, as_json: bool) -> None:
    """What the served version of PIPELINE says of KEY."""
    from batch_assets.snapshots.version import Version

    snapshot = Version.current(_snapshots(pipeline))
    answer = snapshot.get(key)
    if answer is None:
        msg = (
            f"'{key}' is not in version {snapshot.name} of {pipeline}, which has "
            f"{snapshot.manifest.rows:,} keys of {snapshot.manifest.day}"
        )
        raise SnapshotError(msg)
    if as_json:
        print_json(answer.to_dict())
    else:
        print_answer(answer)


@main.command()
@click.argument("pipelines", nargs=-1, required=True, metavar="PIPELINE...")
@click.option("--host", default="127.0.0.1", help="Where to listen; 127.0.0.1.")
@click.option("--port", default=8000, help="8000; 0 takes a free one.")
@click.option(
    "--max-batch-size",
    type=click.IntRange(1),
    default=64,
    help="Rows that the model gets at once; 64.",
)
@click.option(
    "--max-wait-ms",
    type=click.FloatRange(0, 60_000),
    default=5.0,
    help="How long a row waits for others while the model is free; 5.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=1024,
    help="Rows that may wait; 1024.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    help="How long the model may take over a batch; 10.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def serve(
    pipelines: tuple[str, ...],
    host: str,
    port: int,
    max_batch_size: int,
    max_wait_ms: float,
    max_queue: int,
    max_seconds: float,
    device: str,
) -> None:
    """Look keys of PIPELINE up over HTTP, and score rows that the night did not cover."""
    try:
        from batch_assets.online.server import bind, serve
    except ModuleNotFoundError as error:
        msg = f"{error.name} is not installed: pip install 'batch-assets[serve]'"
        raise ConfigError(msg) from error
    from batch_assets.online.metrics import Metrics
    from batch_assets.online.pipelines import Served
    from batch_assets.online.scoring import Limits
    from batch_assets.scoring.device import find_device

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for name in pipelines:
        _snapshots(name)
    listening = bind(host, port)
    found = find_device(device, batch_rows=str(max_batch_size))
    limits = Limits(max_batch_size, max_wait_ms, max_queue, max_seconds)
    metrics = Metrics()
    served = [
        Served(data_root(), name, found, limits, metrics.batches_of(name))
        for name in dict.fromkeys(pipelines)
    ]
    address, number = listening.getsockname()[:2]
    click.echo(f"http://{address}:{number}")
    serve(served, metrics, listening)


@main.group(cls=Commands)
def snapshot() -> None:
    """The versions that are, or were, served."""


@snapshot.command("list")
@click.argument("pipeline")
@as_json
def snapshot_list(pipeline: str, as_json: bool) -> None:
    """The versions of PIPELINE on disk, the newest last, and what keeps one served."""
    store = _snapshots(pipeline)
    current, pinned = store.current(), store.pinned()
    rows: list[dict[str, Any]] = [
        {
            "version": manifest.version,
            "day": manifest.day,
            "rows": manifest.rows,
            "coverage": manifest.coverage,
            "model": manifest.model_name,
            "digest": manifest.model_version,
            "created_at": manifest.created_at,
            "linked_shards": sum(f.linked_from is not None for f in manifest.files),
            "current": manifest.version == current,
            "pinned": manifest.version == pinned,
            "served": manifest.version == (pinned or current),
        }
        for manifest in store.versions()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["version", "rows", "release", "made", ""],
        [
            [
                r["version"],
                f"{r['rows']:,}",
                f"{r['model']} {r['digest'][:12]}",
                f"{r['created_at']:%Y-%m-%d %H:%M:%S}",
                ", ".join(w for w in ("served", "current", "pinned") if r[w]),
            ]
            for r in rows
        ],
    )
    for name, version in (("CURRENT", current), ("PIN", pinned)):
        if version and version not in {r["version"] for r in rows}:
            click.echo(f"{name} names {version}, which is not there or not whole")
    if block := store.block():
        click.echo(str(block))


@snapshot.command("rollback")
@click.argument("pipeline")
@click.option("--to", help="A version; the one served before if left out.")
@click.option(
    "--until", type=click.DateTime(TIMES), help="When nights publish again, UTC."
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

    done = rollback(
        _snapshots(pipeline),
        why=why,
        to=to,
        by=by,
        until=until.replace(tzinfo=UTC) if until else None,
    )
    print_done(pipeline, done, as_json)
    _follow_back(pipeline, as_json)


@snapshot.command("pin")
@click.argument("pipeline")
@click.argument("version")
@because
@as_json
def snapshot_pin(
    pipeline: str, version: str, why: str, by: str | None, as_json: bool
) -> None:
    """Let readers of PIPELINE take VERSION, whatever is published, until it is unpinned."""
    from batch_assets.snapshots.operations import pin

    print_done(pipeline, pin(_snapshots(pipeline), version, why=why, by=by), as_json)
    _follow_back(pipeline, as_json)


@snapshot.command("unpin")
@click.argument("pipeline")
@because
@as_json
def snapshot_unpin(pipeline: str, why: str, by: str | None, as_json: bool) -> None:
    """Let readers of PIPELINE take the current version again."""
    from batch_assets.snapshots.operations import unpin

    print_done(pipeline, unpin(_snapshots(pipeline), why=why, by=by), as_json)
    _follow_back(pipeline, as_json)


@snapshot.command("unblock")
@click.argument("pipeline")
@because
@as_json
def snapshot_unblock(pipeline: str, why: str, by: str | None, as_json: bool) -> None:
    """Let the nights of PIPELINE publish again after a rollback."""
    from batch_assets.snapshots.operations import unblock

    print_done(pipeline, unblock(_snapshots(pipeline), why=why, by=by), as_json)


@snapshot.command("verify")
@click.argument("pipeline")
@click.argument("version", required=False)
@as_json
def snapshot_verify(pipeline: str, version: str | None, as_json: bool) -> None:
    """Hash every file of VERSION again, or of every version of PIPELINE."""
    from batch_assets.snapshots.operations import verify

    found = verify(_snapshots(pipeline), version)
    if as_json:
        print_json([{**vars(v), "ok": v.problem is None} for v in found])
    else:
        for one in found:
            click.echo(
                f"{one.version}: {one.problem or 'every file hashes as published'}"
            )
    _exit_unless(all(v.problem is None for v in found))


@snapshot.command("sql")
@click.argument("pipeline")
@click.argument("query", required=False)
@click.option("--version", help="Which one; the served one if left out.")
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

    store, lake = _snapshots(pipeline), Lake(data_root(), pipeline)
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
@click.argument("pipeline")
@as_json
def snapshot_history(pipeline: str, as_json: bool) -> None:
    """What was done to what PIPELINE serves: who, when and why, the newest last."""
    acts, unreadable = _snapshots(pipeline).history()
    if as_json:
        print_json([act.model_dump(mode="json") for act in acts])
    else:
        print_table(
            ["when", "who", "act", "version", "why"],
            [
                [f"{a.at:%Y-%m-%d %H:%M:%S}", a.by, a.act, a.version or "-", a.why]
                for a in acts
            ],
        )
    if unreadable:
        click.echo(f"lines that can't be read: {unreadable}", err=True)
    _exit_unless(not unreadable)


@main.group()
def sinks() -> None:
    """The remote stores that serve a snapshot, too."""


@sinks.command("list")
@click.argument("pipeline")
@as_json
def sinks_list(pipeline: str, as_json: bool) -> None:
    """What each sink of PIPELINE holds and serves, and what is served here."""
    from contextlib import closing

    from batch_assets.sinks.declared import declared_sinks
    from batch_assets.sinks.factory import open_sink

    store = _snapshots(pipeline)
    here, fine = store.served(), True
    rows: list[dict[str, Any]] = []
    for target in declared_sinks(store):
        with closing(open_sink(target, pipeline)) as sink:
            there = sink.current()
            fine &= there == here
            rows += [
                {
                    "sink": target.name,
                    "version": one.about.name,
                    "rows": one.about.rows,
                    "served_at": one.served_at,
                    "served": one.about.name == there,
                }
                for one in sorted(sink.stored_versions(), key=lambda one: one.began_at)
            ]
    if as_json:
        print_json({"served_here": here, "sinks": rows})
    else:
        print_table(
            ["sink", "version", "rows", "served since", ""],
            [
                [
                    r["sink"],
                    r["version"],
                    f"{r['rows']:,}",
                    f"{r['served_at']:%Y-%m-%d %H:%M:%S}" if r["served_at"] else "-",
                    "served" if r["served"] else "",
                ]
                for r in rows
            ],
        )
        click.echo(f"served here: {here or 'nothing'}")
    _exit_unless(fine)


@sinks.command("follow")
@click.argument("pipeline")
@as_json
def sinks_follow(pipeline: str, as_json: bool) -> None:
    """Let each sink of PIPELINE serve what is served here, if it is older, too."""
    _follow_back(pipeline, as_json)


@sinks.command("verify")
@click.argument("pipeline")
def sinks_verify(pipeline: str) -> None:
    """Read every row that the sinks of PIPELINE serve back, and compare with the files."""
    from contextlib import closing

    from batch_assets.sinks.declared import declared_sinks
    from batch_assets.sinks.factory import open_sink
    from batch_assets.sinks.sync import prove
    from batch_assets.snapshots.version import Version

    store = _snapshots(pipeline)
    here = Version.current(store)
    for target in declared_sinks(store):
        with closing(open_sink(target, pipeline)) as sink:
            prove(sink, here)
            click.echo(f"{target.name}: every row of {here.name} is as in its files")


@sinks.command("drop")
@click.argument("pipeline")
@click.argument("version")
def sinks_drop(pipeline: str, version: str) -> None:
    """Remove VERSION from the sinks of PIPELINE; if it is served again, it is loaded anew.

    For a version that `verify` has found wrong: roll back first.
    """
    from contextlib import closing

    from batch_assets.sinks.declared import declared_sinks
    from batch_assets.sinks.factory import open_sink

    for target in declared_sinks(_snapshots(pipeline)):
        with closing(open_sink(target, pipeline)) as sink:
            sink.drop(version)
            click.echo(f"{target.name}: {version} is not there any more")


@main.command()
@click.argument("pipeline")
@of_day
@as_json
def books(pipeline: str, day: str, as_json: bool) -> None:
    """The books of one day: what came in and what went out, per shard."""
    from batch_assets.lake.tables import Lake

    lake = Lake(data_root(), pipeline)
    _must_be_there(lake.folder, pipeline)
    found, forced_at = lake.books(day), lake.forced_at(day)
    if not found.pages:
        msg = f"{pipeline} has no books of {day}: nothing of that day is committed"
        raise PipelineError(msg)
    sides = ("raw", "validated", "quarantined", "scored", "carried", "dead")
    pages = [*((str(s), page) for s, page in found.pages.items()), ("all", found.total)]
    still_open = {*found.open_after_validation(), *found.open_after_scoring()}
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                "day": day,
                "closed": not still_open,
                "forced_at": forced_at and forced_at.isoformat(),
                "shards": {
                    shard: {
                        side: {
                            "rows": getattr(page, side).rows,
                            "keys": f"{getattr(page, side).keys:016x}",
                        }
                        for side in sides
                    }
                    for shard, page in pages
                },
            }
        )
    else:
        print_table(
            ["shard", *sides, "validation", "scoring"],
            [
                [shard]
                + [f"{getattr(page, side).rows:,}" for side in sides]
                + [_closes(shard, found.open_after_validation())]
                + [_closes(shard, found.open_after_scoring())]
                for shard, page in pages
            ],
        )
        if forced_at:
            click.echo(
                f"forced: its rows were taken at {forced_at:%Y-%m-%d %H:%M} UTC from a "
                "source that keeps no history, when the day was over"
            )
    _exit_unless(not still_open)


@main.group("dead-letters", cls=Commands)
def dead_letters() -> None:
    """Rows that the model could not score."""


@dead_letters.command("list")
@click.argument("pipeline")
@of_day
@click.option("--limit", default=50, help="How many rows to print, 0 for all; 50.")
@as_json
def dead_letters_list(pipeline: str, day: str, limit: int, as_json: bool) -> None:
    """The dead letters of one day, and why; with --json, all of them, whole."""
    from batch_assets.lake.tables import Lake
    from batch_assets.scoring.replay import letters_of

    lake = Lake(data_root(), pipeline)
    _must_be_there(lake.folder, pipeline)
    if not lake.predictions.paths(day):
        msg = f"{pipeline} {day} is not committed, so it has no dead letters"
        raise PipelineError(msg)
    rows = letters_of(lake, day).to_pylist()
    if as_json:
        print_json(rows)
        return
    print_letters(rows, limit or len(rows))


@dead_letters.command("replay")
@click.argument("pipeline")
@of_day
@as_json
def dead_letters_replay(pipeline: str, day: str, as_json: bool) -> None:
    """Score the dead letters of one day again, and serve what came of it.

    The day keeps its release. What can be scored now is merged in one commit; the rest
    stays. To use another release, run the whole day again.
    """
    from batch_assets.launch import replay_night

    with (
        _dagster() as (definitions, on, console),
        console.status(f"replay: {pipeline} {day}"),
    ):
        report = replay_night(definitions, on, pipeline, day)
    if as_json:
        print_json(report)
    else:
        print_replay(report)
    _exit_as([report])


def _closes(shard: str, still_open: list[int]) -> str:
    is_open = bool(still_open) if shard == "all" else int(shard) in still_open
    return "open" if is_open else "closes"


def _sweep_once(release: Any) -> int:
    """The knee of the demo's release; swept through Dagster, unless it was before."""
    from batch_assets.launch import sweep_batch_sizes
    from batch_assets.scoring.device import find_device
    from batch_assets.scoring.sweep import Sweeps

    sweeps, device = Sweeps(data_root()), find_device()
    if found := sweeps.find(release, device):
        return found.knee.batch_rows
    with (
        _dagster() as (definitions, on, console),
        console.status(f"how many rows at once: {release.name}"),
    ):
        why = sweep_batch_sizes(definitions, on, DEMO_PIPELINE)
    if why:
        raise PipelineError("\n".join(why))
    return sweeps.tuned(release, device).batch_rows


def _run_nights(
    pipeline: str,
    days: Sequence[str],
    engine: str | None = None,
    *,
    force: bool = False,
) -> list[Any]:
    from batch_assets.launch import run_night

    reports = []
    with _dagster() as (definitions, on, console):
        for number, day in enumerate(days, 1):
            where = f"night {number} of {len(days)}" if len(days) > 1 else "night"
            with console.status(f"{where}: {pipeline} {day}"):
                report = run_night(definitions, on, pipeline, day, engine, force=force)
            reports.append(report)
            if report.interrupted:
                break
            if not console.is_terminal:
                state = "done" if report.success else "FAILED"
                click.echo(f"{where}: {pipeline} {day} {state}", err=True)
    return reports


def _run_range(
    pipeline: str,
    first: str,
    last: str | None,
    parallel: int,
    engine: str | None,
    as_json: bool,
) -> None:
    """Run several days, with a line for each when it is settled."""
    from batch_assets.backfill import days_between, run_days

    if last is not None and last < first:
        msg = f"--to {last} is before --from {first}; the first day comes first"
        raise click.UsageError(msg)
    settled = []
    with _dagster() as (definitions, on, console):
        days = days_between(definitions, pipeline, first, last)
        nights = run_days(
            definitions, on, pipeline, days, engine=engine, parallel=parallel
        )
        for number, day in enumerate(days, 1):
            with console.status(f"day {number} of {len(days)}: {pipeline} {day}"):
                one = next(nights, None)
            if one is None:  # A signal ended it between two days.
                break
            settled.append(one)
            print_day(one, err=as_json)
    if as_json:
        print_json(
            [
                {"state": one.state, "seconds": one.seconds, **vars(one.report)}
                for one in settled
            ]
        )
    print_range(pipeline, settled, len(days), err=as_json)
    done = [one.report for one in settled]
    if len(done) < len(days) or any(report.interrupted for report in done):
        raise SystemExit(INTERRUPTED)
    _exit_as(done)


@contextmanager
def _dagster() -> Iterator[tuple[Any, Any, Any]]:
    """The project's definitions, the instance, and a console for its progress."""
    from rich.console import Console

    from batch_assets.launch import instance, load_definitions
    from batch_assets.progress import shown_on

    # A copy of the terminal: while a step runs, Dagster captures stderr itself.
    console = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))
    with instance() as on, shown_on(console):
        yield load_definitions(), on, console


def _follow_back(pipeline: str, quiet: bool) -> None:
    """Let the sinks serve what an operator wants served; each says what came of it."""
    from contextlib import closing

    from batch_assets.sinks.declared import declared_sinks
    from batch_assets.sinks.factory import open_sink
    from batch_assets.sinks.sync import sync_sink

    store, fine = _snapshots(pipeline), True
    for target in declared_sinks(store):
        try:
            with closing(open_sink(target, pipeline)) as sink:
                done = sync_sink(sink, store, keep=target.keep, back=True)
            _say(f"{target.name}: serves {done.version}, {done.why}", quiet)
        except BatchAssetsError as error:
            # What is served here is what was asked for; the sink can be told again.
            fine = False
            again = f"try again with: batch-assets sinks sync_sink {pipeline}"
            click.echo(f"{target.name}: {error}; {again}", err=True)
    _exit_unless(fine)


def _snapshots(pipeline: str) -> SnapshotStore:
    store = SnapshotStore(data_root(), pipeline)
    _must_be_there(store.folder, pipeline)
    return store


def _must_be_there(folder: StoragePath, pipeline: str) -> None:
    if folder.is_dir():
        return
    parent = folder.parent
    known = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    msg = (
        f"'{pipeline}' has nothing at {folder}; there: {', '.join(known) or 'nothing'}. "
        "Run a night of it, or set BATCH_ASSETS_ROOT"
    )
    raise PipelineError(msg)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        click.echo(text)


def _exit_as(reports: Sequence[Any]) -> None:
    if any(report.interrupted for report in reports):
        raise SystemExit(INTERRUPTED)
    _exit_unless(all(report.success for report in reports))


def _exit_unless(fine: bool) -> None:
    if not fine:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
