"""`demo`: a week of nights, and a key looked up."""

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_as
from batch_assets.cli.lookup import print_answer
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, say
from batch_assets.cli.run import print_nights, run_nights
from batch_assets.root import data_root, project_folder


@click.command()
@click.argument("name", type=click.Choice(["flights", "baskets"]), default="flights")
@as_json
def demo(name: str, as_json: bool) -> None:
    """Score a week of nights, and look one key up.

    FLIGHTS, the default: real flights, and the risk that each is late. BASKETS:
    households' purchases, which are simulated, and the ten products that each will most
    likely buy next; its model is trained here first, which takes minutes.
    """
    from batch_assets.launch import demo as steps

    root, project, shown = data_root(), project_folder(), steps.DEMOS[name]
    shown.take_data(project)
    if not shown.release_folder(project).exists():
        say(f"training {shown.model}, once: it takes minutes", as_json)
        shown.train(project)
    release = steps.approve_release(root, project, shown)
    say(f"release {release.name} {release.short} is registered and approved", as_json)
    batch_rows = steps.find_batch_rows(root, release)
    if batch_rows is None:
        with (
            open_runner(shown.pipeline) as (runner, console),
            console.status(f"how many rows at once: {release.name}"),
        ):
            batch_rows = steps.sweep_batch_rows(runner, root, release)
    say(f"batches of {batch_rows:,} rows are enough for it on this machine", as_json)
    reports = run_nights(shown.pipeline, shown.days)
    key, answer = steps.look_up_first(root, shown)
    if as_json:
        print_json({"nights": reports, "lookup": answer.to_dict() if answer else None})
    else:
        print_nights(reports)
        click.echo(f"\n$ batch-assets lookup {shown.pipeline} {key}")
        if answer:
            print_answer(answer)
    exit_as(reports)
