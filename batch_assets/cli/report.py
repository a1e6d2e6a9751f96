"""`report`: a night as one page, with its pictures."""

from pathlib import Path

import click

from batch_assets.cli.names import DAY, PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import print_json
from batch_assets.errors import PipelineError
from batch_assets.root import data_root


@click.command()
@click.argument("pipeline", type=PIPELINE)
@click.option(
    "--day",
    type=DAY,
    help="YYYY-MM-DD; the newest that there is anything of, if left out.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file; <root>/reports/PIPELINE/DAY.html if left out.",
)
@as_json
def report(pipeline: str, day: str | None, out: Path | None, as_json: bool) -> None:
    """Write the report of one night of PIPELINE, and print where it is.

    It is one file of HTML that opens without a server or a network. Gates are judged again,
    by the limits of the YAML as it is now; nothing is scored, served or changed.
    """
    from batch_assets.launch.project import load_definitions, spec_of
    from batch_assets.reports.gather import newest_day
    from batch_assets.reports.night import write_report

    lake = lake_of(pipeline)
    day = day or newest_day(lake)
    if day is None:
        msg = f"{pipeline} has no day to report: run one, batch-assets run {pipeline}"
        raise PipelineError(msg)
    spec = spec_of(load_definitions(), pipeline)
    written = write_report(data_root(), spec, day, to=out)
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                "day": day,
                "path": str(written.path),
                "headline": written.facts.headline,
                "books_add_up": written.facts.flow.adds_up,
            }
        )
    else:
        click.echo(str(written.path))
