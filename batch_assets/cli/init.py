"""`init`: a project of one's own, with a pipeline on generated data that runs."""

import os
from pathlib import Path

import click

from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json


@click.command()
@click.argument(
    "folder", type=click.Path(path_type=Path), default=Path(), metavar="[FOLDER]"
)
@click.option("--name", help="Of the package; that of the folder if left out.")
@as_json
def init(folder: Path, name: str | None, as_json: bool) -> None:
    """Write a project of your own into FOLDER, which must be empty; here if left out.

    It is whole: what Dagster loads, its instance, and a pipeline on generated data that
    can be trained, run and looked up at once. Nothing is overwritten.
    """
    from batch_assets.launch.new_project import write_project

    written = write_project(folder, name)
    if as_json:
        print_json(written)
        return
    for path in written.files:
        click.echo(f"wrote {os.path.relpath(written.folder / path)}")
    click.echo("\nnext, in this environment:")
    if written.folder != Path.cwd():
        click.echo(f"  cd {os.path.relpath(written.folder)}")
    click.echo(f"  python -m {written.package}.train")
    click.echo("  batch-assets run churn --day 2026-01-05")
    click.echo("  batch-assets lookup churn 42")
