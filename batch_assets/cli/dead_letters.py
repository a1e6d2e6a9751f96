"""`dead-letters`: rows that the model could not score, listed and replayed."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_as
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json, of_day
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import print_json, print_table
from batch_assets.errors import PipelineError

if TYPE_CHECKING:
    from batch_assets.launch.reports import ReplayReport


@click.group("dead-letters")
def dead_letters() -> None:
    """Rows that the model could not score."""


@dead_letters.command("list")
@click.argument("pipeline", type=PIPELINE)
@of_day
@click.option("--limit", default=50, help="How many rows to print, 0 for all; 50.")
@as_json
def dead_letters_list(pipeline: str, day: str, limit: int, as_json: bool) -> None:
    """The dead letters of one day, and why; with --json, all of them, whole."""
    from batch_assets.scoring.replay import letters_of

    lake = lake_of(pipeline)
    if not lake.predictions.paths(day):
        msg = f"{pipeline} {day} is not committed, so it has no dead letters"
        raise PipelineError(msg)
    letters = letters_of(lake, day).to_pylist()
    if as_json:
        print_json(letters)
    elif letters:
        _print_letters(letters, limit or len(letters))
    else:
        click.echo("no dead letters")


@dead_letters.command("replay")
@click.argument("pipeline", type=PIPELINE)
@of_day
@as_json
def dead_letters_replay(pipeline: str, day: str, as_json: bool) -> None:
    """Score the dead letters of one day again, and serve what came of it.

    The day keeps its release. What can be scored now is merged in one commit; the rest
    stays. To use another release, run the whole day again.
    """
    with (
        open_runner(pipeline) as (runner, console),
        console.status(f"replay: {pipeline} {day}"),
    ):
        report = runner.replay_night(day)
    if as_json:
        print_json(report)
    else:
        _print_replay(report)
    exit_as([report])


def _print_letters(letters: Sequence[dict[str, Any]], limit: int) -> None:
    """Print dead letters, whose first column is the key, and the reasons most often."""
    key = next(iter(letters[0]))
    print_table(
        [key, "shard", "stage", "release", "reason"],
        [
            [
                str(letter[key]),
                str(letter["shard"]),
                letter["stage"],
                f"{letter['model_name']} {letter['model_version'][:12]}",
                letter["reason"],
            ]
            for letter in letters[:limit]
        ],
    )
    if len(letters) > limit:
        click.echo(f"… and {len(letters) - limit:,} more; --limit 0 prints all")
    click.echo(f"\n{len(letters):,} dead letters; most often")
    reasons = Counter(letter["reason"] for letter in letters)
    for reason, count in reasons.most_common(5):
        click.echo(f"{count:>8,}  {reason}")


def _print_replay(report: "ReplayReport") -> None:
    for text in report.errors:
        click.echo(f"{report.day} failed: {text}", err=True)
    if report.replayed_rows is None:
        return
    click.echo(
        f"{report.pipeline} {report.day}: {report.rescued_rows or 0:,} of "
        f"{report.replayed_rows:,} dead letters are scored now, "
        f"{report.dead_letters or 0:,} are left"
    )
    if report.served_version:
        click.echo(f"served: {report.served_version}")
