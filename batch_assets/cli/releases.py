"""`release`: register models, and say who may use them."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_assets.cli.compare_releases import release_compare
from batch_assets.cli.import_release import release_import
from batch_assets.cli.names import MODEL
from batch_assets.cli.new_release import release_new
from batch_assets.cli.options import as_json, because, in_utc, of_channel
from batch_assets.cli.printing import print_json, print_table, time_of
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.models.registry import ApprovalEvent, Channel


@click.group()
def release() -> None:
    """Register models, and say who may use them."""


release.add_command(release_new)
release.add_command(release_import)
release.add_command(release_compare)


@release.command("add")
@click.argument("name", type=MODEL)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@as_json
def release_add(name: str, folder: Path, as_json: bool) -> None:
    """Prove the release in FOLDER, and copy it into the registry, under its digest.

    A process of its own loads it and asks it its golden rows. What can't be loaded here,
    or answers otherwise than recorded, is not added.
    """
    from batch_assets.models.registry import Registry

    added = Registry(data_root()).add(folder, name, prove=True)
    model, rows = added.manifest.model, added.manifest.golden.rows
    wrote = {"torch": model.torch} | model.versions
    if as_json:
        print_json(
            {
                "name": added.name,
                "digest": added.digest,
                "golden_rows": rows,
                "format": model.format,
                "written_by": wrote,
            }
        )
        return
    by = ", ".join(f"{package} {version}" for package, version in wrote.items())
    click.echo(f"{added.name} {added.digest}")
    click.echo(f"{rows} golden rows are reproduced; written as {model.format} by {by}")
    click.echo(f"approve it: batch-assets release approve {name} {added.short} --why …")


@release.command("sign")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@as_json
def release_sign(folder: Path, as_json: bool) -> None:
    """Sign the release in FOLDER, by the key in BATCH_ASSETS_SIGNING_KEY.

    Who names the public key, which is printed, under release_keys uses no release that it
    has not signed. Add the folder again after it.
    """
    from batch_assets.models.release import open_release
    from batch_assets.models.signatures import sign_folder

    signed = open_release(folder)
    key = sign_folder(folder, signed.digest)
    if as_json:
        print_json({"name": signed.name, "digest": signed.digest, "key": key})
        return
    click.echo(f"{signed.name} {signed.digest}")
    click.echo(f"signed by {key}")
    click.echo(f"add it: batch-assets release add {signed.name} {folder}")


@release.command("approve")
@click.argument("name", type=MODEL)
@click.argument("digest")
@because
@click.option(
    "--until", type=click.DateTime(), callback=in_utc, help="When it runs out, UTC."
)
@click.option(
    "--evidence",
    help="The comparison that the approval rests on, as `release compare` named it.",
)
@of_channel
@as_json
def release_approve(
    name: str,
    digest: str,
    why: str,
    by: str | None,
    until: datetime | None,
    evidence: str | None,
    channel: "Channel",
    as_json: bool,
) -> None:
    """Allow a release of NAME to be used, by its DIGEST or the beginning of it."""
    from batch_assets.models.registry import Registry

    registry = Registry(data_root())
    event = registry.approve(
        name, digest, why=why, channel=channel, by=by, until=until, evidence=evidence
    )
    _print_event(name, event, as_json)


@release.command("revoke")
@click.argument("name", type=MODEL)
@click.argument("digest")
@because
@of_channel
@as_json
def release_revoke(
    name: str,
    digest: str,
    why: str,
    by: str | None,
    channel: "Channel",
    as_json: bool,
) -> None:
    """Take an approval back: the next night refuses the release."""
    from batch_assets.models.registry import Registry

    event = Registry(data_root()).revoke(name, digest, why=why, channel=channel, by=by)
    _print_event(name, event, as_json)


@release.command("list")
@click.argument("name", type=MODEL, required=False)
@as_json
def release_list(name: str | None, as_json: bool) -> None:
    """The releases of NAME, or of every model, with the last act on each."""
    from batch_assets.models.registry import Registry
    from batch_assets.models.release_states import release_states

    registry = Registry(data_root())
    states = list(release_states(registry, [name] if name else registry.names()))
    if as_json:
        print_json(states)
        return
    print_table(
        ["name", "digest", "channel", "state", "", "since", "by", "why"],
        [
            [
                state.name,
                state.digest[:12],
                state.channel or "-",
                state.state,
                "in use" if state.in_use else "",
                time_of(state.at),
                state.by,
                state.why,
            ]
            for state in states
        ],
    )


@release.command("verify")
@click.argument("name", type=MODEL)
@click.argument("digest", required=False)
@as_json
def release_verify(name: str, digest: str | None, as_json: bool) -> None:
    """Hash every file again, and replay the golden batch, of one release or of all."""
    from batch_assets.models.registry import Registry
    from batch_assets.scoring.device import find_device
    from batch_assets.scoring.scorer import Scorer

    registry = Registry(data_root())
    digests = [digest] if digest else registry.digests(name)
    verified = [registry.reread(name, each) for each in digests]
    for each in verified:
        Scorer(each, find_device("cpu"))
    if as_json:
        print_json([{"name": r.name, "digest": r.digest, "ok": True} for r in verified])
        return
    for each in verified:
        click.echo(
            f"{each.name} {each.short}: {len(each.manifest.files)} files hash as "
            f"registered, {each.manifest.golden.rows} golden rows are reproduced"
        )


def _print_event(name: str, event: "ApprovalEvent", as_json: bool) -> None:
    if as_json:
        print_json({"name": name, **event.model_dump(mode="json")})
        return
    until = f" until {event.until:%Y-%m-%d %H:%M} UTC" if event.until else ""
    click.echo(
        f"{name} {event.digest[:12]}: {event.act}d for {event.channel}{until} by "
        f"{event.by}: {event.why}"
    )
    if event.evidence:
        click.echo(
            f"on the evidence of {event.evidence.comparison[:12]}: "
            f"{event.evidence.finding}"
        )
