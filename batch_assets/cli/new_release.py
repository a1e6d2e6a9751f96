"""`release new`: a release from a training script, after a look at its contract."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, print_table
from batch_assets.root import project_folder

if TYPE_CHECKING:
    from batch_assets.models.contract import Contract
    from batch_assets.models.release import Release
    from batch_assets.training.drafts import Draft

# So many categories are shown.
SHOWN = 6


@click.command("new")
@click.option(
    "--from",
    "where",
    required=True,
    metavar="FILE.py:FUNCTION",
    help="What makes the draft: a function that returns draft_release(...).",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write; data/releases/NAME of the project if left out.",
)
@click.option("--yes", is_flag=True, help="Write without asking.")
@as_json
def release_new(where: str, out: Path | None, yes: bool, as_json: bool) -> None:
    """Write a release from a training script, after showing its contract."""
    from batch_assets.training.scripts import draft_from

    offer(draft_from(where), out, yes=yes, as_json=as_json)


def offer(draft: "Draft", out: Path | None, *, yes: bool, as_json: bool) -> None:
    """Show a draft, and write it if a person wants it."""
    folder = out or project_folder() / "data" / "releases" / draft.name
    if not as_json:
        _show(draft)
    if not yes:
        click.confirm(f"write it into {folder}?", abort=True, err=as_json)
    written = draft.write(folder)
    _tell(written, folder, as_json)


def _tell(written: "Release", folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": written.name,
                "digest": written.digest,
                "folder": str(folder),
                "contract": written.contract.model_dump(mode="json"),
            }
        )
        return
    click.echo(f"{written.name} {written.digest}")
    click.echo(f"register it: batch-assets release add {written.name} {folder}")


def _show(draft: "Draft") -> None:
    print_table(["column", "type", "null", "allowed"], list(_columns(draft.contract)))
    click.echo()
    print_table(
        ["output", "type", "", "allowed"],
        [[one.name, _kind(one), "", _range(one)] for one in draft.contract.outputs],
    )
    click.echo()
    if draft.left_out:
        broken = ", ".join(f"{n:,} {rule}" for rule, n in draft.left_out.items())
        click.echo(f"rows of the frame that break a rule, left out: {broken}")
    usual = f"{len(draft.usual):,} rows" if draft.usual is not None else "none"
    click.echo(f"{len(draft.golden)} golden rows; the reference is of {usual}")


def _columns(contract: "Contract") -> list[list[str]]:
    key = [contract.key.name, contract.key.dtype, "", "the key"]
    features = [
        [one.name, one.dtype, "yes" if one.nullable else "", _range(one)]
        for one in contract.features
    ]
    inputs = [[one.name, _kind(one), "", _size(one)] for one in contract.inputs]
    return [key, *features, *inputs]


def _kind(one: Any) -> str:
    return str(getattr(one, "kind", None) or one.dtype)


def _size(one: Any) -> str:
    if size := getattr(one, "size", None):
        return f"{size:,} values" if one.kind == "vector" else f"0 to {size - 1:,}"
    if vocabulary := getattr(one, "vocabulary", None):
        return f"words of '{vocabulary}'"
    most = getattr(one, "max_length", None)
    return f"up to {most:,} elements" if most else ""


def _range(one: Any) -> str:
    if categories := getattr(one, "categories", None) or getattr(one, "classes", None):
        more = f", … ({len(categories)})" if len(categories) > SHOWN else ""
        return ", ".join(map(str, categories[:SHOWN])) + more
    low, high = getattr(one, "min", None), getattr(one, "max", None)
    if low is None and high is None:
        return "any"
    least = "" if low is None else f"{low:,.6g}"
    most = "" if high is None else f"{high:,.6g}"
    return f"{least} to {most}".strip()
