"""`denylist`: items that no ranking shows any more, from now on."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json, because
from batch_assets.cli.pipelines import snapshots_of
from batch_assets.cli.printing import print_json, print_table, say, time_of

if TYPE_CHECKING:
    from batch_assets.snapshots.deny import DenylistChange
    from batch_assets.snapshots.store import SnapshotStore


@click.group()
def denylist() -> None:
    """Items that no ranking shows any more, from now on; the next best move up."""


@denylist.command("add")
@click.argument("pipeline", type=PIPELINE)
@click.argument("items", nargs=-1, required=True)
@because
@as_json
def denylist_add(
    pipeline: str, items: tuple[str, ...], why: str, by: str | None, as_json: bool
) -> None:
    """Deny ITEMS of PIPELINE: readers and the sinks' clients drop them within seconds."""
    from batch_assets.snapshots.deny import deny

    store = snapshots_of(pipeline)
    _tell(store, deny(store, items, why=why, by=by), as_json)


@denylist.command("remove")
@click.argument("pipeline", type=PIPELINE)
@click.argument("items", nargs=-1, required=True)
@because
@as_json
def denylist_remove(
    pipeline: str, items: tuple[str, ...], why: str, by: str | None, as_json: bool
) -> None:
    """Let the rankings of PIPELINE show ITEMS again."""
    from batch_assets.snapshots.deny import allow

    store = snapshots_of(pipeline)
    _tell(store, allow(store, items, why=why, by=by), as_json)


@denylist.command("replace")
@click.argument("pipeline", type=PIPELINE)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@because
@as_json
def denylist_replace(
    pipeline: str, file: Path, why: str, by: str | None, as_json: bool
) -> None:
    """Deny what FILE lists, an item a line, and nothing else."""
    from batch_assets.snapshots.deny import replace_denylist

    store = snapshots_of(pipeline)
    lines = file.read_text(encoding="utf-8").splitlines()
    items = [line for line in lines if line.strip()]
    _tell(store, replace_denylist(store, items, why=why, by=by), as_json)


@denylist.command("show")
@click.argument("pipeline", type=PIPELINE)
@as_json
def denylist_show(pipeline: str, as_json: bool) -> None:
    """The items that PIPELINE denies, who denied each, when and why."""
    denied = snapshots_of(pipeline).denylist().items
    if as_json:
        print_json([one.model_dump(mode="json") for one in denied])
        return
    print_table(
        ["item", "since", "who", "why"],
        [[one.item, time_of(one.at, seconds=True), one.by, one.why] for one in denied],
    )


def _tell(store: "SnapshotStore", change: "DenylistChange", as_json: bool) -> None:
    """Let the sinks know, and print what was changed and what came of each."""
    from batch_assets.sinks.operations import deny_in_sinks

    unknown = _unknown(store, change)
    if as_json:
        print_json(
            {
                "denied": change.denied,
                "allowed": change.allowed,
                "unknown": unknown,
                "items": change.denylist.names,
            }
        )
    say(
        f"{len(change.denied)} denied, {len(change.allowed)} allowed again; "
        f"{len(change.denylist.items)} are denied now",
        as_json,
    )
    if unknown:
        say(
            f"in no ranking that is served now, and denied should one have them: "
            f"{', '.join(unknown)}",
            as_json,
        )
    fine = True
    for sink, error in deny_in_sinks(store):
        if error is None:
            say(f"{sink}: denies the same", as_json)
        else:
            fine = False
            again = f"try again with: batch-assets sinks follow {store.pipeline}"
            click.echo(f"{sink}: {error}; {again}", err=True)
    exit_unless(fine)


def _unknown(store: "SnapshotStore", change: "DenylistChange") -> list[str]:
    """Which of the items that were denied just now no served ranking has."""
    if (served := store.served()) is None:
        return []
    known = set(change.denylist.unknown(store.manifest(served).forms))
    return [name for name in change.denied if name in known]
