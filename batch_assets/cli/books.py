"""`books`: what came in and what went out on one day, per shard."""

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json, of_day
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import print_json, print_table, time_of
from batch_assets.errors import PipelineError


@click.command()
@click.argument("pipeline", type=PIPELINE)
@of_day
@as_json
def books(pipeline: str, day: str, as_json: bool) -> None:
    """The books of one day: what came in and what went out, per shard."""
    lake = lake_of(pipeline)
    day_books, forced_at = lake.books(day), lake.forced_at(day)
    if not day_books.pages:
        msg = f"{pipeline} has no books of {day}: nothing of that day is committed"
        raise PipelineError(msg)
    pages, sides = day_books.by_shard(), list(day_books.total.sides())
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                "day": day,
                "closed": day_books.closed,
                "kept_shards": day_books.kept,
                "forced_at": forced_at and forced_at.isoformat(),
                "shards": {
                    shard: {
                        side: {"rows": total.rows, "keys": f"{total.keys:016x}"}
                        for side, total in page.sides().items()
                    }
                    for shard, page in pages.items()
                },
            }
        )
    else:
        print_table(
            ["shard", *sides, "validation", "scoring"],
            [
                [shard]
                + [f"{getattr(page, side).rows:,}" for side in sides]
                + [_closes(shard, day_books.open_after_validation())]
                + [_closes(shard, day_books.open_after_scoring())]
                for shard, page in pages.items()
            ],
        )
        if forced_at:
            click.echo(
                f"forced: its rows were taken at {time_of(forced_at)} UTC from a "
                "source that keeps no history, when the day was over"
            )
    exit_unless(day_books.closed)


def _closes(shard: str, still_open: list[int]) -> str:
    is_open = bool(still_open) if shard == "all" else int(shard) in still_open
    return "open" if is_open else "closes"
