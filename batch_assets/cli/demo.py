"""`demo`: a week of real nights, and a flight looked up."""

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_as
from batch_assets.cli.lookup import print_answer
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, say
from batch_assets.cli.run import print_nights, run_nights
from batch_assets.root import data_root, project_folder


@click.command()
@as_json
def demo(as_json: bool) -> None:
    """Score a week of real nights, and look one flight up."""
    from batch_assets.launch import demo as steps

    root = data_root()
    release = steps.approve_release(root, project_folder())
    say(f"release {release.name} {release.short} is registered and approved", as_json)
    batch_rows = steps.find_batch_rows(root, release)
    if batch_rows is None:
        with (
            open_runner(steps.PIPELINE) as (runner, console),
            console.status(f"how many rows at once: {release.name}"),
        ):
            batch_rows = steps.sweep_batch_rows(runner, root, release)
    say(f"batches of {batch_rows:,} rows are enough for it on this machine", as_json)
    reports = run_nights(steps.PIPELINE, steps.DAYS)
    key, answer = steps.look_up_first(root)
    if as_json:
        print_json({"nights": reports, "lookup": answer.to_dict() if answer else None})
    else:
        print_nights(reports)
        click.echo(f"\n$ batch-assets lookup {steps.PIPELINE} {key}")
        if answer:
            print_answer(answer)
    exit_as(reports)
