"""`doctor`: what this machine and this project lack, and how that is mended."""

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, print_table
from batch_assets.root import data_root

SHOWN = {"ok": "ok", "warn": "warn", "bad": "BAD"}


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Look for what this machine, <root> and the project lack; say how it is mended.

    It tries what a night needs: versions, the device, Java, the clock, writing and
    replacing files, room, Dagster's daemon, each sink, and who is told. It leaves nothing
    behind and sends nothing. It ends with 1 if something is bad.
    """
    from batch_assets.launch.doctor.examine import examine

    findings = list(examine(data_root()))
    if as_json:
        print_json(findings)
    else:
        print_table(
            ["", "what", "found"],
            [[SHOWN[f.state], f.name, " ".join(f.found.split())] for f in findings],
        )
        for finding in findings:
            if finding.state != "ok":
                click.echo(f"mend {finding.name}: {finding.mend}")
    exit_unless(all(finding.state != "bad" for finding in findings))
